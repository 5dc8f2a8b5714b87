"""Forward mail to the people behind the application (RFC 5321, section 4.5.1, and RFC 2142, section 4)."""

from salmon.routing import route, stateless

from config import Message, settings


# Also the bare word without a domain, as RFC 5321 asks.
@route("(?:postmaster|(?:postmaster|abuse)@(host))")
@stateless
def FORWARD(message: Message, host=None):
    message.forward(to=settings.postmaster)
