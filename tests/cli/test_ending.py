"""The process ends even if a thread does not and Python would wait for it."""

import subprocess
import sys
import time

import pytest

STUCK = """
import logging, threading
from concurrent.futures import ThreadPoolExecutor
from localinfra.cli.ending import end_within
logging.basicConfig()
pool = ThreadPoolExecutor(1, "grammar")
pool.submit(threading.Event().wait)
end_within(7, {limit_s})
"""


def test_the_process_ends_despite_a_thread_that_does_not() -> None:
    program = STUCK.format(limit_s=0.2)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=600)
    assert ended.returncode == 7 and b"grammar_0" in ended.stderr


def test_a_process_that_ends_by_itself_does_not_wait_for_the_deadline() -> None:
    program = "from localinfra.cli.ending import end_within; end_within(7, 600)"
    started = time.monotonic()
    assert subprocess.run([sys.executable, "-c", program], timeout=600).returncode == 0
    assert time.monotonic() - started < 60


LEFT = """
import logging, threading
from localinfra.cli.ending import leave
logging.basicConfig()
thread = threading.Thread(target=threading.Event().wait, name="{name}", daemon=True)
thread.start()
leave(7)
"""


@pytest.mark.parametrize(("name", "status"), [("load smollm2", 7), ("some library's", 0)])
def test_the_interpreter_is_not_finalized_under_a_models_thread(name: str, status: int) -> None:
    program = LEFT.format(name=name)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=600)
    assert ended.returncode == status and (b"load smollm2" in ended.stderr) == bool(status)
