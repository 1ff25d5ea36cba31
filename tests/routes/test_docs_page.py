"""The page at /docs in a headless Chromium, over a server without the models of its examples."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from documented import operations
from echo import ECHO, EchoServer

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=30000"]


@pytest.fixture(scope="module")
def drawn(server: EchoServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page's markup, once its scripts have run."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Debian's chromium, or the path of another in $CHROMIUM")
    folder: Path = tmp_path_factory.mktemp("profile")
    done = subprocess.run(
        [chromium, *ARGUMENTS, f"--user-data-dir={folder}", "--dump-dom", server.url + "/docs"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_operation_is_shown(drawn: str) -> None:
    names = [one["operationId"] for _, _, one in operations()]
    assert sorted(re.findall(r'<section id="(\w+)"', drawn)) == sorted(names)
    assert sorted(re.findall(r'<a href="#(\w+)" title', drawn)) == sorted(names)


def test_a_request_is_shown_as_curl_with_a_model_that_the_server_has(
    drawn: str, server: EchoServer
) -> None:
    [first, *_] = re.findall(r"<code>(curl .*?)</code>", drawn, re.DOTALL)
    assert first.startswith(f"curl '{server.url}/v1/chat/completions'")
    assert f'"model": "{ECHO}"' in first
