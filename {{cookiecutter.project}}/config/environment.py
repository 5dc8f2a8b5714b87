"""What each setting may be, and how the environment sets it."""

import ipaddress
import os
import re
import sys
from contextlib import contextmanager

HOST = re.compile(r"(?=.{1,253}\Z)(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*\Z", re.IGNORECASE)
LIST = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,14}[a-z0-9])?\Z")
COMMANDS = re.compile(r".*-(?:subscribe|unsubscribe|confirm(?:-[a-z0-9]+)?)\Z")
PASSWORD = re.compile(r"(?<=//).*(?=@)|(?<=:)(?!//).*(?=@)|(?<=password=)[^&'\"]*")
KEY_LENGTH = 32  # characters, of what signs
RESERVED = ("postmaster", "abuse", "mailer-daemon")


def apply(settings):
    """Check `settings`, a dictionary of names and values, and put what the environment says into it.

    Ends the process with one line that names the variable when a value breaks its rule.
    """
    for name, (rule, explanation) in RULES.items():
        value = os.environ.get(name.upper(), settings.get(name))
        try:
            settings[name] = rule(value)
        except (ValueError, TypeError, AttributeError, KeyError):
            refuse(name, "(not shown)" if name in SECRETS else shown(value), explanation)
    if settings["postmaster"].partition("@")[2] == settings["mail_domain"]:
        refuse(
            "postmaster", shown(settings["postmaster"]), "must lie outside of MAIL_DOMAIN; for example root@localhost"
        )


def refuse(name, value, explanation):
    """End the process with one line about a setting, on stderr, with exit status 1; `value` as it may be shown."""
    sys.exit(" ".join(f"ERROR: {name.upper()} {value} {explanation}".split()))


def shown(value):
    """Return the text for a value, without the password where it is a URL."""
    return PASSWORD.sub("***", repr(value))


@contextmanager
def needs(name, value, errors=Exception):
    """End the process with one line that names the setting when the block fails for its value, with `errors`."""
    try:
        yield
    except errors as error:
        refuse(name, shown(value), f"cannot be used: {error.__cause__ or error}")


def make_private(folder):
    """Make a folder that is for our own user only; end the process with one line when it is somebody else's."""
    try:
        os.makedirs(folder, exist_ok=True)
        os.chmod(folder, 0o700)
    except OSError as error:
        sys.exit(
            f"ERROR: {folder}/ cannot be made private: {error.strerror}; be the user of the application, for example"
            f" by `sudo -u OWNER` before the command"
        )


def _text(value):
    value.encode()
    if not value.isprintable():
        raise ValueError
    return value


def _filled(value):
    if not value:
        raise ValueError
    return _text(value)


def _login(value):
    value.encode("ascii")  # smtplib sends nothing else
    return _text(value)


def _key(value):
    if 0 < len(value) < KEY_LENGTH:
        raise ValueError
    return _text(value)


def _host_name(value):
    if not HOST.match(value):
        raise ValueError
    return value.lower()


def _host(value):
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        return _host_name(value)


def _address(value):
    local_part, _, host = value.rpartition("@")
    if not re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}", local_part):
        raise ValueError
    return f"{local_part}@{_host_name(host)}"


def _lists(value):
    names = value.split(",") if isinstance(value, str) else value
    names = [name.strip().lower() for name in names]
    if not names or len(set(names)) < len(names):
        raise ValueError
    for name in names:
        if not LIST.match(name) or COMMANDS.match(name) or name in RESERVED:
            raise ValueError
    return names


def _renames(value):
    if isinstance(value, str):
        pairs = [pair.split(":") for pair in value.split(",") if pair.strip()]
        value = dict(pairs)
        if len(value) < len(pairs):
            raise ValueError
    renames = {_dotted(old): _dotted(new) for old, new in value.items()}
    if any(old == new for old, new in renames.items()):
        raise ValueError
    return renames


def _modules(value):
    names = value.split(",") if isinstance(value, str) else value
    names = [_dotted(name) for name in names]
    if not names:
        raise ValueError
    return names


def _dotted(name):
    name = name.strip()
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError
    return name


def _one_of(*choices):
    def rule(value):
        if value not in choices:
            raise ValueError
        return value

    return rule


def _whole(least, most):
    def rule(value):
        number = int(value)
        if str(number) != str(value).strip() or not least <= number <= most:
            raise ValueError
        return number

    return rule


def _yes_or_no(value):
    return {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False, "": False}[
        str(value).lower()
    ]


SECRETS = ("relay_password", "secret_key")
RULES = {
    "mail_domain": (_host_name, "must be a host name; for example news.example.com"),
    "lists": (
        _lists,
        "must be names of at most 16 letters, digits, dots, hyphens or underscores, not reserved"
        " (postmaster, abuse) and not ending like a command (-subscribe); for example news,dev",
    ),
    "receiver_protocol": (_one_of("lmtp", "smtp"), "must be lmtp or smtp; for example lmtp"),
    "receiver_host": (_host, "must be a host name or an IP address; for example 127.0.0.1"),
    "receiver_port": (_whole(0, 65535), "must be a port, 0 to 65535; for example 8823"),
    "max_message_size": (_whole(1024, 2**31 - 1), "must be octets, 1024 to 2147483647; for example 10485760"),
    "relay_host": (_host, "must be a host name or an IP address; for example 127.0.0.1"),
    "relay_port": (_whole(1, 65535), "must be a port, 1 to 65535; for example 25"),
    "relay_username": (_login, "must be printable ASCII; for example news"),
    "relay_password": (_login, "must be printable ASCII"),
    "relay_starttls": (_yes_or_no, "must be yes or no; for example yes"),
    "state_database": (
        _filled,
        "must say where the states are; for example {{ cookiecutter.__state_database }}",
    ),
    # % if cookiecutter.state_storage == "postgresql"
    "state_connect_timeout": (_whole(2, 60), "must be seconds, 2 to 60; for example 3"),
    "state_statement_timeout": (_whole(1, 60), "must be seconds, 1 to 60; for example 5"),
    # % endif
    "secret_key": (
        _key,
        f"must be at least {KEY_LENGTH} characters of printable text; for example what `openssl rand -hex 32` prints",
    ),
    "replies_per_hour": (_whole(1, 10**6), "must be a number from 1 to 1000000; for example 20"),
    "renamed_states": (_renames, "must be old and new names of states; for example CONFIRMING:ASKED,OLD:START"),
    "handlers": (
        _modules,
        "must name modules of handlers; for example app.handlers.subscription,app.handlers.postmaster",
    ),
    "postmaster": (_address, "must be an address; for example root@localhost"),
}
