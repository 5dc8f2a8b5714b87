"""Read settings from the environment and from `.env`; end the process with one line for a value that cannot be used.

    env = Env()
    receiver_port = env.int("RECEIVER_PORT", 8823, validate=validate.Range(0, 65535))
    env.seal()
"""

import os
import re
import sys
from typing import Any, NoReturn

import environs
from environs import ValidationError, validate
from marshmallow import fields

__all__ = ["KEY", "LOGIN", "NAMES", "TEXT", "Env", "refuse", "validate"]

KEY_LENGTH = 32  # characters of a signing key
HOST = re.compile(r"(?=.{1,253}\Z)(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*\Z", re.IGNORECASE)
IPV6 = re.compile(r"[0-9a-f:.]*:[0-9a-f:.]*\Z", re.IGNORECASE)
LOCAL_PART = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}\Z")
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|KEY")
PASSWORD_IN_URL = re.compile(r"(?<=//).*(?=@)|(?<=:)(?!//).*(?=@)|(?<=password=)[^&'\"]*")


class Env(environs.Env):
    """An `environs.Env` that has read `.env`, and has two more kinds of values: `host` and `address`.

    The environment goes before `.env`, and both before the default. Under pytest neither counts, so that
    tests are the same on every machine: there, `TEST_RECEIVER_PORT` overrides `receiver_port`.
    """

    def __init__(self) -> None:
        testing = "PYTEST_VERSION" in os.environ
        super().__init__(eager=False, prefix="TEST_" if testing else None)
        self.add_parser_from_field("host", Host)
        self.add_parser_from_field("address", Address)
        if not testing:
            self.read_env(".env", recurse=False)

    def seal(self) -> None:
        """Accept no more settings; end the process with one line on stderr when one has a wrong value."""
        try:
            super().seal()
        except environs.EnvValidationError as error:
            name, messages = next(iter(error.error_messages.items()))
            example = self._fields[name].load_default
            rule = str(messages[0]).rstrip(".")
            if isinstance(example, (list, tuple)):
                example = ",".join(example)
            if example not in ("", None) and "for example" not in rule:
                rule += f"; for example {name}={example}"
            refuse(name, os.environ.get(name, "in .env"), rule)


class Host(fields.String):
    """A host name (RFC 1123, section 2.1), in small letters, or an IP address."""

    def _deserialize(self, value: Any, *arguments: Any, **options: Any) -> str:
        if not (HOST.match(value) or IPV6.match(value)):
            raise ValidationError("must be a host name or an IP address")
        return str(value).lower()


class Address(fields.String):
    """A mail address (RFC 5322, section 3.4.1), outside of the domain `outside`."""

    def __init__(self, outside: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.outside = outside

    def _deserialize(self, value: Any, *arguments: Any, **options: Any) -> str:
        local_part, _, host = value.rpartition("@")
        if not (LOCAL_PART.match(local_part) and HOST.match(host)):
            raise ValidationError("must be a mail address")
        if host.lower() == (self.outside or "").lower():
            raise ValidationError(f"must lie outside of {self.outside}, or mail to it goes round in circles")
        return f"{local_part}@{host.lower()}"


def TEXT(value: str) -> None:
    """Accept text of one line that is not empty."""
    if not value or not value.isprintable():
        raise ValidationError("must be printable text")


def LOGIN(value: str) -> None:
    """Accept what `smtplib` can send as a user name or a password."""
    if not (value.isascii() and value.isprintable()):
        raise ValidationError("must be printable ASCII")


def KEY(value: str) -> None:
    """Accept a signing key, or none."""
    if value and (len(value) < KEY_LENGTH or not value.isprintable()):
        raise ValidationError(
            f"must be at least {KEY_LENGTH} characters of printable text; for example what `openssl rand -hex 32` prints"
        )


def NAMES(pattern: str, rule: str) -> Any:
    """Return a validator for a list of different names that each match `pattern`; `rule` says it in words."""

    def check(names: list[str]) -> None:
        if not names or len(set(names)) < len(names) or not all(re.fullmatch(pattern, name) for name in names):
            raise ValidationError(rule)

    return check


def refuse(name: str, value: object, rule: str) -> NoReturn:
    """End the process with one line about the setting `name` on stderr, and with exit status 1.

    Secrets are not shown, nor is the password in a URL.
    """
    shown = "(not shown)" if SECRET.search(name) and value else PASSWORD_IN_URL.sub("***", repr(value))
    sys.exit(" ".join(f"ERROR: {name} {shown} {rule}".split()))
