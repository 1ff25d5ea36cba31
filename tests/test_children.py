"""Children end with their parent, also one that is killed, and whatever they are doing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHILD = """
import os, signal, sys, time
from localinfra.children import end_with_parent
{before}
end_with_parent()
print(os.getpid(), signal.getsignal(signal.SIGINT) == signal.SIG_DFL,
      signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []), flush=True)
{work}
"""
PARENT = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what runs in its background
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE)
time.sleep(600)
"""
SLEEPS = "time.sleep(600)"
HOLDS_THE_INTERPRETER = "sum(range(10**12))"
WITHOUT_PRCTL = "import localinfra.children as c; c.PR_SET_PDEATHSIG = -1"


def is_alive(pid: int) -> bool:
    """A zombie, which nobody waits for in a container without an init, is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("before", "work"),
    [("", SLEEPS), ("", HOLDS_THE_INTERPRETER), (WITHOUT_PRCTL, SLEEPS)],
    ids=["asleep", "busy in C", "by the pipe alone"],
)
def test_a_child_ends_with_a_parent_that_is_killed(before: str, work: str) -> None:
    program = CHILD.format(before=before, work=work)
    command = [sys.executable, "-c", PARENT, program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid, has_default, is_blocked = parent.stdout.readline().split()
        assert (has_default, is_blocked) == ("True", "False")
        assert is_alive(int(pid))
        parent.kill()
        parent.wait()
        ends_at = time.monotonic() + 60
        while is_alive(int(pid)):
            if time.monotonic() > ends_at:
                os.kill(int(pid), signal.SIGKILL)
                pytest.fail("it outlived its parent")
            time.sleep(0.01)


def test_our_modules_import_nothing_from_the_folder_a_program_runs_in(tmp_path: Path) -> None:
    (tmp_path / "ctypes.py").write_text("raise SystemExit('imported')")
    program = tmp_path / "programs" / "one.py"
    program.parent.mkdir()
    program.write_text(
        "import subprocess\nfrom localinfra.children import module_command\n"
        "subprocess.run(module_command('localinfra.children'), check=True)"
    )
    subprocess.run([sys.executable, str(program)], cwd=tmp_path, check=True)
