"""A small Django project, in which the states are a model and the admin is the page to look at them.

Where it can, it takes the settings of the mail application, `config/settings.py`.
"""

from pathlib import Path

import dj_database_url

from app.model.secret_key import stored_key
from config import settings as application
from config.environment import needs

FOLDER = Path(__file__).resolve().parent.parent


def database(address):
    """Return what Django must know of the database at `address`, a URL or the path of an SQLite file."""
    if "://" in address:
        # Kept connections are of no use to a few pages, and the mail application keeps its own.
        found = dj_database_url.parse(address, conn_max_age=0)
    else:
        found = {"ENGINE": "django.db.backends.sqlite3", "NAME": address}
    if found["ENGINE"].endswith("sqlite3"):
        found["NAME"] = str(FOLDER / found["NAME"])
    found["OPTIONS"] = {**OPTIONS.get(found["ENGINE"], {}), **found.get("OPTIONS", {})}
    return found


# How each database keeps what it said it has, and gives up in time; a URL's query goes before it.
OPTIONS = {
    "django.db.backends.sqlite3": {
        # A transaction that reads first and writes then fails at once when another wrote meanwhile.
        "transaction_mode": "IMMEDIATE",
        # Readers and the writer do not wait for each other. With less than FULL, a power cut takes
        # everything since the last checkpoint; macOS leaves data in the drive's cache without fullfsync.
        "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA fullfsync = ON",
    },
    "django.db.backends.mysql": {"connect_timeout": 3, "read_timeout": 5, "write_timeout": 5},  # seconds
    "django.db.backends.postgresql": {
        "connect_timeout": 3,  # seconds
        "tcp_user_timeout": 5000,  # milliseconds
        "options": " ".join(
            [
                "-c statement_timeout=5s",
                # Who has waited for the turn of a sender sees what the mail before has left.
                r"-c default_transaction_isolation=read\ committed",
                # The server sees within 20 seconds that a machine has gone, and others get the turn.
                "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3",
            ]
        ),
    },
}

with needs("state_database", application.state_database):
    DATABASES = {"default": database(application.state_database)}
with needs("secret_key", ""):
    SECRET_KEY = application.secret_key or stored_key(FOLDER / "run" / "secret_key")

# The names by which a browser may ask for the pages. To be asked from outside, add yours here and, with https:// before
# it, to CSRF_TRUSTED_ORIGINS; put a web server with TLS in front, which sends everybody to it and sets HSTS; and set
# SESSION_COOKIE_SECURE and CSRF_COOKIE_SECURE to True.
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "webapp.mail_states",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
ROOT_URLCONF = "webapp.urls"
WSGI_APPLICATION = "webapp.wsgi.application"
STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True  # the style sheets are served from the packages that have them
TIME_ZONE = "UTC"  # Django sets it for the whole process, so it is that of the log as well
USE_TZ = True
