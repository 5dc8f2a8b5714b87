"""A small disk, which can be full."""

import subprocess
from contextlib import contextmanager

import pytest


@contextmanager
def small_disk(folder, size):
    """Mount a file system of that many MB, in memory, at the new `folder` within the block; skip the test where that cannot be."""
    folder.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}m,mode=755", "tmpfs", folder], capture_output=True
        )
    except FileNotFoundError:
        mounted = None
    if mounted is None or mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here (needs root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def grow(folder, size):
    """Let a small disk have that many MB."""
    subprocess.run(["mount", "-o", f"remount,size={size}m", folder], check=True)


@contextmanager
def full(folder):
    """Fill a small disk within the block."""
    ballast = folder / "ballast"
    try:
        with open(ballast, "wb", buffering=0) as file:
            while file.write(bytes(4096)) == 4096:
                pass
    except OSError:
        pass
    try:
        yield
    finally:
        ballast.unlink()
