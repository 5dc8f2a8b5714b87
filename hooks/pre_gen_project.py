"""Refuses an answer that cannot be, in one line, before anything is on disk.

Without `re`, whose import takes as long as all the rest of this process.
"""

import sys

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


def consists_of(text, others):
    """Tell whether `text` has ASCII letters, digits and `others` only."""
    return text.isascii() and all(c.isalnum() or c in others for c in text)


def is_project(name):
    return 0 < len(name) <= 64 and consists_of(name, "-_.") and name[0].isalpha() and name[-1].isalnum()


def is_label(label):
    return 0 < len(label) <= 63 and consists_of(label, "-") and "-" not in (label[0], label[-1])


if not is_project(PROJECT):
    rule = "must be at most 64 letters, digits, '-', '_' or '.', begin with a letter and end with a letter or digit"
    refuse("project", PROJECT, rule, "mail-app")
if "-".join(filter(None, PROJECT.lower().replace("_", "-").replace(".", "-").split("-"))) in DEPENDENCIES:
    refuse("project", PROJECT, "is the name of a package that the application depends on", "mail-app")
if len(MAIL_DOMAIN) > 253 or not all(map(is_label, MAIL_DOMAIN.split("."))):
    rule = "must be a host name of letters, digits, '-' and '.', labels of at most 63, other scripts in their xn-- form"
    refuse("mail_domain", MAIL_DOMAIN, rule, "news.example.com")
