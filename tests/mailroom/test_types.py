"""The types of the package hold together, and an editor can use them."""

import os
import subprocess
import sys

from tests.baking import APPLICATION, TEMPLATE


def test_package_is_typed_as_mypy_strict_asks():
    result = mypy("-p", "mailroom")

    assert result.returncode == 0, result.stdout


def test_types_are_visible_outside_the_package(tmp_path):
    (tmp_path / "handler.py").write_text(
        "from mailroom import Message\n\n\n"
        "def START(message: Message) -> None:\n"
        "    reveal_type(message.reply)\n"
        "    reveal_type(message.text)\n"
        "    message.reply('welcome.msg')\n"
    )

    result = mypy(str(tmp_path / "handler.py"))

    assert "(template: str, sender: str, reply_to: str | None =, headers: " in result.stdout
    assert 'Revealed type is "str"' in result.stdout
    assert 'Missing positional argument "sender"' in result.stdout


def mypy(*arguments):
    command = [sys.executable, "-m", "mypy", "--config-file", TEMPLATE / "pyproject.toml"]
    command += ["--cache-dir", TEMPLATE / ".mypy_cache"]  # without it, each run takes 10 s
    environment = os.environ | {"MYPYPATH": str(APPLICATION)}
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=250)
