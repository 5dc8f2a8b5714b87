"""What `deploy/README.md` has for logrotate keeps what the daemon says for two weeks, and no longer."""

import os
import pwd
import re
import shutil
import subprocess

import pytest

LOGROTATE = shutil.which("logrotate", path="/usr/sbin:/usr/bin:/sbin")
pytestmark = pytest.mark.skipif(
    not LOGROTATE, reason="there is no logrotate on this machine: apt-get install logrotate"
)


def test_log_of_the_daemon_is_rotated_while_it_runs(bake, tmp_path):
    application = bake()
    readme = (application / "deploy" / "README.md").read_text()
    (name,) = re.findall(r"^app=(\S+)$", readme, re.MULTILINE)
    (script,) = re.findall(r"```sh\n(cat > /etc/logrotate\.d/.*?)```", readme, re.DOTALL)
    assert application == tmp_path / name
    user = pwd.getpwuid(os.geteuid()).pw_name
    script = script.replace("/etc/logrotate.d/$app", "$folder/rotation").replace("/srv/", "$folder/")
    script = re.sub(r"su \S+ \S+", f"su {user} {user}", script)
    subprocess.run(["sh", "-ec", script], env={**os.environ, "app": name, "folder": str(tmp_path)}, check=True)

    logs = application / "logs"
    with open(logs / "salmon.err", "a") as daemon:
        for day in range(20):
            daemon.write(f"day {day}\n")
            daemon.flush()
            command = [LOGROTATE, "--force", "--state", tmp_path / "state", tmp_path / "rotation"]
            rotated = subprocess.run(command, capture_output=True, text=True)
            assert (rotated.returncode, rotated.stdout + rotated.stderr) == (0, "")
        daemon.write("today\n")

    assert (logs / "salmon.err").read_text() == "today\n"
    assert {path.name for path in logs.glob("salmon.*")} == {
        "salmon.err",
        *(f"salmon.err.{n}.gz" for n in range(1, 15)),
    }
