"""Read settings from the environment and from `.env`; end the process with one line for an invalid value.

env = Env()
receiver_port = env.int("RECEIVER_PORT", 8823, validate=validate.Range(0, 65535))
env.seal()
"""

import ipaddress
import os
import re
import sys
from typing import Any, NoReturn

import environs
from environs import ValidationError, validate

__all__ = ["ADDRESS", "DOMAIN", "HOST", "KEY", "LOGIN", "NAMES", "TEXT", "Env", "refuse", "validate"]

KEY_LENGTH = 32  # characters of a signing key
HOST_NAME = re.compile(r"(?=.{1,253}\Z)(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*\Z", re.IGNORECASE)
LOCAL_PART = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}\Z")
PRINTABLE = r"[^\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|KEY")
PASSWORD_IN_URL = re.compile(r"(?<=//).*(?=@)|(?<=:)(?!//).*(?=@)|(?<=password=)[^&'\"]*")


class Env(environs.Env):
    """An `environs.Env` that has read `.env`.

    The environment overrides `.env`, and both override the default. Tests are the same on every machine: under pytest
    both are ignored, and `TEST_RECEIVER_PORT` overrides `receiver_port`.
    """

    def __init__(self) -> None:
        testing = "PYTEST_VERSION" in os.environ
        super().__init__(eager=False, prefix="TEST_" if testing else None)
        if not testing:
            try:
                self.read_env(".env", recurse=False)
            except (OSError, UnicodeError) as error:
                sys.exit(f"ERROR: .env cannot be read: {error}")

    def seal(self) -> None:
        """Check all values and defaults; end the process with one line on stderr for the first that is invalid."""
        old = os.environ.get("RELAY_STARTTLS")  # of 0.1; to ignore it would send the password in clear
        if old and not self._prefix:
            refuse("RELAY_STARTTLS", old, "is called RELAY_TLS now")
        for name, field in self._fields.items():
            default = field.load_default
            if name in self._errors:
                self._refuse(name, self._get_value(name, ""), self._errors[name][0])
            if self._values[name] is not default or type(default) not in (bool, int, str, list):
                continue
            try:
                value = field.deserialize(default)
            except ValidationError as error:
                field.load_default = None  # an invalid default is no example
                self._refuse(name, default, next(iter(error.messages)))
            if type(value) is type(default) and value != default:
                refuse(name, default, f"must be written as {value!r}")
        super().seal()

    def _refuse(self, name: str, value: Any, message: object) -> NoReturn:
        """End the process with marshmallow's message about a value, and the default as an example."""
        if isinstance(message, int):
            rule = f"has an invalid value in place {message + 1}"
        elif message == "Environment variable not set.":
            rule = "must be set"
        else:
            rule = re.sub("^not ", "is not ", str(message)[:1].lower() + str(message)[1:].rstrip("."))
        example = self._fields[name].load_default
        if isinstance(example, (list, tuple)):
            example = ",".join(map(str, example))
        if isinstance(example, (str, int)) and example != "" and "for example" not in rule:
            rule += f"; for example {name}={example}"
        refuse(name, value, rule)


# A host name (RFC 1123, section 2.1); one line of text; a user name or password that `smtplib` can send, or none; a
# signing key, or none.
DOMAIN = validate.Regexp(HOST_NAME, error="must be a host name")
TEXT = validate.Regexp(rf"{PRINTABLE}+\Z", error="must be printable text")
LOGIN = validate.Regexp(r"[ -~]*\Z", error="must be printable ASCII; for example news")
KEY = validate.Regexp(
    rf"({PRINTABLE}{{{KEY_LENGTH},}})?\Z",
    error=f"must be at least {KEY_LENGTH} characters of printable text; for example what `openssl rand -hex 32` prints",
)


def HOST(text: str) -> None:
    """Refuse a text that is neither a host name nor an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        DOMAIN(text)


def ADDRESS(outside: str | None) -> Any:
    """Return a validator for a mail address (RFC 5322, section 3.4.1) in any domain but `outside`."""
    outside = (outside or "").lower()
    example = "root@localhost" if outside != "localhost" else "root@localhost.localdomain"

    def check(text: str) -> None:
        local_part, _, host = text.rpartition("@")
        if not (LOCAL_PART.match(local_part) and HOST_NAME.match(host)):
            raise ValidationError(f"must be a mail address; for example {example}")
        if host.lower() == outside:
            rule = f"must be an address outside of {outside}, or mail to it would come back"
            raise ValidationError(f"{rule}; for example {example}")

    return check


def NAMES(pattern: str, rule: str) -> Any:
    """Return a validator for a list of different names that all match `pattern`; its error is `rule`."""

    def check(names: list[str]) -> None:
        if not names or len(set(names)) < len(names) or not all(re.fullmatch(pattern, name) for name in names):
            raise ValidationError(rule)

    return check


def refuse(name: str, value: object, rule: str) -> NoReturn:
    """End the process with exit status 1 and one line on stderr: the setting `name`, its value, and the rule it breaks.

    The line shows no secret, and no password in a URL.
    """
    shown = "(not shown)" if SECRET.search(name) and value else PASSWORD_IN_URL.sub("***", repr(value))
    sys.exit(" ".join(f"ERROR: {name} {shown} {rule}".split()))
