"""Read a bounce: who could not be reached, and why (RFC 3464)."""

import re

from salmon import bounce

import mailroom.message

STATUS = re.compile(r"\s*([245])\.(\d{1,3})\.(\d{1,3})\b")  # RFC 3463
FAILED = re.compile(r"\s*(failed\b|$)", re.IGNORECASE)


class Bounce(bounce.BounceAnalyzer):
    """Salmon's `BounceAnalyzer`, for any status, and for a mail that is no bounce.

    `failed` has a pair for each address that could not be reached: the address, and its status, such as `5.1.1`,
    empty when the report has none.
    """

    def __init__(self, message: "mailroom.message.Message") -> None:
        matches = bounce.match_bounce_headers(message)
        found = {"Content-Description-Parts": matches.pop("Content-Description-Parts")}
        score = 0.0
        for name, values in matches.items():  # as `salmon.bounce.detect`
            groups = [match.groups() for match in map(bounce.BOUNCE_MATCHERS[name].match, values) if match]
            score += 1 + len(groups) / len(values)
            if groups and name != "Status":
                found[name] = groups
        super().__init__(found, score / bounce.BOUNCE_MAX)
        self.failed: list[tuple[str, str]] = []
        for part in message.base.walk():
            address = (part["Final-Recipient"] or "").partition(";")[2].strip(" \t<>")
            status = STATUS.match(part["Status"] or "")
            if address and FAILED.match(part["Action"] or ""):
                self.failed.append((address, status[0].strip() if status else ""))
            if status and "Status" not in found:
                found["Status"] = [status.groups()]
                first, second, third = status.groups()
                self.primary_status = int(first), bounce.PRIMARY_STATUS_CODES[first]
                self.secondary_status = int(second), bounce.SECONDARY_STATUS_CODES.get(second, "Unknown")
                combined = second + third
                self.combined_status = int(combined), bounce.COMBINED_STATUS_CODES.get(combined, "Unknown")
        if not self.failed:  # Exim
            self.failed = [(address, "") for address in re.findall(r"[^,\s]+", message["X-Failed-Recipients"] or "")]

    def is_hard(self) -> bool:
        """Return whether this is a bounce for a permanent failure."""
        return self.probable() and (self.primary_status[0] or 0) > 4

    def is_soft(self) -> bool:
        """Return whether this is a bounce for a temporary failure."""
        return self.probable() and not self.is_hard()
