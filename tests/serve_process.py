"""`localinfra serve` as a child process, up to the last line of its banner."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator

from children import started

LAST = re.compile(r'Press Ctrl-C|\{.*"localinfra answers at')  # in a log of JSON it is all


class ServeProcess:
    """It listens when this is made, or has ended."""

    def __init__(self, popen: "subprocess.Popen[str]"):
        self.popen = popen
        self.banner = ""
        assert popen.stdout is not None
        for line in popen.stdout:
            self.banner += line
            if LAST.match(line):
                break
        found = re.search(r"https?://[^/:]+:(\d+)", self.banner)
        self.url, self.port = (found[0], int(found[1])) if found else ("", 0)

    def wait_for_line(self, words: str) -> None:
        assert self.popen.stdout is not None
        while words not in self.popen.stdout.readline():
            pass


@contextlib.contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[ServeProcess]:
    command = [sys.executable, "-m", "localinfra", "serve", "--port", "0", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with started(command, env={**os.environ, **environment}, **pipes) as popen:
        yield ServeProcess(popen)
