"""Refuses an answer that cannot be, in one line, before anything is on disk."""

import re
import sys

LABEL = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
# What an application, its tests and its storages depend on: a project of that name would depend on itself.
DEPENDENCIES = """
    asgiref chardet click dj-database-url dnspython django exceptiongroup greenlet hypothesis iniconfig jinja2 lockfile
    markupsafe packaging pluggy psycopg psycopg-binary pygments pytest python-daemon ruff salmon-mail setuptools
    sortedcontainers sqlalchemy sqlparse tomli typing-extensions tzdata whitenoise
""".split()

PROJECT = {{cookiecutter.project | tojson}}
MAIL_DOMAIN = {{cookiecutter.mail_domain | tojson}}


def refuse(question, answer, rule, example):
    """End the generation; cookiecutter then removes what it made."""
    sys.exit(f"ERROR: {question} {answer!r} {rule}; for example {example}")


if not re.fullmatch(r"[A-Za-z](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", PROJECT):
    rule = "must be at most 64 letters, digits, '-', '_' or '.', begin with a letter and end with a letter or digit"
    refuse("project", PROJECT, rule, "mail-app")
if re.sub(r"[-_.]+", "-", PROJECT).lower() in DEPENDENCIES:
    refuse("project", PROJECT, "is the name of a package that the application depends on", "mail-app")
if len(MAIL_DOMAIN) > 253 or not re.fullmatch(rf"{LABEL}(?:\.{LABEL})*", MAIL_DOMAIN, re.IGNORECASE | re.ASCII):
    rule = "must be a host name of letters, digits, '-' and '.', labels of at most 63, other scripts in their xn-- form"
    refuse("mail_domain", MAIL_DOMAIN, rule, "news.example.com")
