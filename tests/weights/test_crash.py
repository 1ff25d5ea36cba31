"""A short run of `scripts/crash`, whatever time it takes."""

import subprocess
import sys
from pathlib import Path

import pytest

CRASH = Path(__file__).resolve().parents[2] / "scripts" / "crash"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_clients_of_a_server_that_is_killed_get_answers_or_clear_errors() -> None:
    options = ["--deaths", "2", "--clients", "2", "--spare-s", "600", "--unwritten-s", "5"]
    done = subprocess.run([sys.executable, CRASH, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "an answer" in done.stdout and "prefix from files" in done.stdout
