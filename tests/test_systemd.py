"""The unit in `deploy/systemd/` is one that systemd understands to the last line, and calls safe."""

import re
import shutil
import subprocess

import pytest

from tests.baking import PROJECTS

pytestmark = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze here")


@pytest.fixture(params=PROJECTS)
def unit(request, bake, tmp_path):
    """The unit of a worker on port 8823, whose application is in a folder of ours instead of /srv."""
    application = bake(project=request.param)
    (name,) = re.findall(r"^app=(\S+)$", (application / "deploy" / "README.md").read_text(), re.MULTILINE)
    assert re.fullmatch("[a-z][a-z0-9-]{,30}", name), "what useradd of Debian takes"
    program = tmp_path / name / ".venv" / "bin" / "salmon"
    program.parent.mkdir(parents=True)
    shutil.copy(shutil.which("true"), program)
    text = (application / "deploy" / "systemd" / "app@.service").read_text()
    assert "/srv/%p" in text
    (tmp_path / f"{name}@.service").write_text(text.replace("/srv/", f"{tmp_path}/"))
    return tmp_path / f"{name}@8823.service"


def analyze(*arguments):
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)


def test_systemd_understands_the_unit(unit):
    verified = analyze("verify", unit)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


def test_systemd_calls_the_unit_safe(unit):
    (verdict,) = [line for line in analyze("security", "--offline=yes", unit).stdout.splitlines() if "Overall" in line]
    assert verdict.split()[-2] == "OK", verdict
