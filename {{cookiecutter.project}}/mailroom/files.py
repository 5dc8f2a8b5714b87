"""Keep other users of the machine out of the application's files."""

import os
import sys
from contextlib import suppress
from pathlib import Path


def tighten_umask() -> None:
    """Replace a umask of 0, which Salmon's daemon has, by 077; leave any other alone.

    Also close the folders of the modules that Python has compiled before this call: with a umask of 0, another user
    can replace the code of the daemon there.
    """
    umask = os.umask(0o077)
    if umask != 0:
        os.umask(umask)
        return
    for module in list(sys.modules.values()):
        compiled = getattr(getattr(module, "__spec__", None), "cached", None)
        with suppress(OSError):  # the folder does not exist, or belongs to root
            if compiled and os.stat(os.path.dirname(compiled)).st_mode & 0o022:
                os.chmod(os.path.dirname(compiled), 0o700)


def make_private(folder: str | Path) -> None:
    """Create a folder that only its owner can use, or close an existing one to others.

    Ends the process with one line when the folder belongs to another user.
    """
    folder = Path(folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        sys.exit(
            f"ERROR: {folder}/ cannot be made private: {error.strerror}; run this as the user of the application,"
            " for example with `sudo -u OWNER` before the command"
        )
