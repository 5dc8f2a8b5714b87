"""How much memory a command takes."""

import subprocess
import sys

# In between, since what a new process is said to have had at most includes what its parent has.
MEASURE = """if True:
    import os, sys
    process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
    _, status, usage = os.wait4(process, 0)
    print(usage.ru_maxrss, file=sys.stderr)
    sys.exit(os.waitstatus_to_exitcode(status))
"""


def greatest_memory(command, **options):
    """Run a command, whose first word is a path, to its good end; return the most memory that it had, in kilobytes.

    `options` are those of `subprocess.run`, but for `stderr`.
    """
    program = [sys.executable, "-S", "-c", MEASURE, *map(str, command)]
    done = subprocess.run(program, stderr=subprocess.PIPE, text=True, **options)
    if done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}: {done.stderr}")
    kilobytes = int(done.stderr.split()[-1])
    return kilobytes // 1024 if sys.platform == "darwin" else kilobytes
