"""Run a mail application with Salmon; `mailroom/README.md` is the guide.

`config/boot.py` and `config/testing.py` put a `Mailroom` together. Handlers import none of this: the
`Message` that they get has what they need.
"""

from mailroom.files import tighten_umask

tighten_umask()  # before the first file is made

from mailroom.message import Message  # noqa: E402
from mailroom.receiver import LMTPReceiver, SMTPReceiver  # noqa: E402
from mailroom.relay import Relay  # noqa: E402
from mailroom.room import Mailroom  # noqa: E402
from mailroom.signing import signing_key  # noqa: E402

__all__ = ["LMTPReceiver", "Mailroom", "Message", "Relay", "SMTPReceiver", "signing_key"]
