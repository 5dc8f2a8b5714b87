"""Protect the files of the application from other users of the machine."""

import os
import sys
from pathlib import Path
from typing import Any


def tighten_umask() -> None:
    """Replace a umask of 0, which is that of Salmon's daemon, by 077; leave any other alone.

    Python may have compiled modules before this call. Their folders are closed as well: another user
    could replace the code of the daemon.
    """
    umask = os.umask(0o077)
    if umask != 0:
        os.umask(umask)
        return
    specs: list[Any] = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
    for folder in {Path(spec.cached).parent for spec in specs if getattr(spec, "cached", None)}:
        try:
            if folder.stat().st_mode & 0o022:
                folder.chmod(0o700)
        except OSError:  # it does not exist, or belongs to root
            pass


def make_private(folder: str | Path) -> None:
    """Create a folder that only its owner can use, or make an existing one private.

    Ends the process with one line when it belongs to somebody else.
    """
    folder = Path(folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        sys.exit(
            f"ERROR: {folder}/ cannot be made private: {error.strerror}; be the user of the application,"
            " for example by `sudo -u OWNER` before the command"
        )
