"""What subscribers write, in an own table. A post is committed with the state of its mail, or not at all."""

# % if cookiecutter.state_storage == "postgresql"
import sqlalchemy
from sqlalchemy import Column, Integer, String, Text, func

TABLES = sqlalchemy.MetaData()
POSTS = sqlalchemy.Table(
    "posts",
    TABLES,
    Column("id", Integer, primary_key=True),
    Column("list_name", String(16), nullable=False, index=True),
    Column("sender", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("text", Text, nullable=False),
)
create = TABLES.create_all  # makes the table where it is missing; called each time the storage is opened


def add(connection, list_name, sender, subject, text):
    post = {"list_name": list_name, "sender": sender, "subject": subject or "", "text": text.replace("\0", "")}
    connection.execute(POSTS.insert(), post)


def latest(connection, list_name):
    """Return sender, subject and the first 1000 characters of the last ten posts to a list, the newest first."""
    posts = sqlalchemy.select(POSTS.c.sender, POSTS.c.subject, func.substr(POSTS.c.text, 1, 1000))
    newest = posts.where(POSTS.c.list_name == list_name).order_by(POSTS.c.id.desc()).limit(10)
    return connection.execute(newest).all()
# % elif cookiecutter.state_storage == "django"
from django.db import models
from django.db.models.functions import Left

from mailroom.django import migrate


class Post(models.Model):
    id = models.BigAutoField(primary_key=True)
    list_name = models.CharField(max_length=16, db_index=True)
    sender = models.TextField()
    subject = models.TextField()
    text = models.TextField()


create = migrate("app")  # runs the migrations in app/migrations/; called each time the storage is opened


def add(connection, list_name, sender, subject, text):
    posts = Post.objects.using(connection.alias)
    posts.create(list_name=list_name, sender=sender, subject=subject or "", text=text.replace("\0", ""))


def latest(connection, list_name):
    """Return sender, subject and the first 1000 characters of the last ten posts to a list, the newest first."""
    posts = Post.objects.using(connection.alias).filter(list_name=list_name).order_by("-id")
    return list(posts.values_list("sender", "subject", Left("text", 1000))[:10])
# % else
TABLE = """
    CREATE TABLE IF NOT EXISTS posts (
        id INTEGER PRIMARY KEY,
        list_name TEXT NOT NULL,
        sender TEXT NOT NULL,
        subject TEXT NOT NULL,
        text TEXT NOT NULL
    )"""
INSERT = "INSERT INTO posts (list_name, sender, subject, text) VALUES (?, ?, ?, ?)"
LATEST = "SELECT sender, subject, substr(text, 1, 1000) FROM posts WHERE list_name = ? ORDER BY id DESC LIMIT 10"


def create(connection):
    """Create the table where it is missing; this is called each time the storage is opened."""
    connection.execute(TABLE)
    connection.execute("CREATE INDEX IF NOT EXISTS posts_by_list ON posts (list_name)")


def add(connection, list_name, sender, subject, text):
    connection.execute(INSERT, (list_name, sender, subject or "", text))


def latest(connection, list_name):
    """Return sender, subject and the first 1000 characters of the last ten posts to a list, the newest first."""
    return connection.execute(LATEST, (list_name,)).fetchall()
# % endif
