"""The built wheel, installed beside the packages of this environment, without a checkout."""

import json
import os
import re
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from children import started
from serve_process import ServeProcess

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def pip(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments, "--quiet"], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--wheel-dir", folder, ROOT)  # fetches the build backend
    (path,) = folder.glob("localinfra-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    pip("install", "--no-deps", "--target", wheel.parent / "installed", wheel)
    return wheel.parent / "installed"


def command(installed: Path, *arguments: str) -> Sequence[str]:
    return [sys.executable, str(installed / "bin" / "localinfra"), *arguments]


def environment(installed: Path, cache: Path) -> dict[str, str]:
    kept = {name: v for name, v in os.environ.items() if not name.startswith("LOCALINFRA_")}
    return kept | {"PYTHONPATH": str(installed), "LOCALINFRA_CACHE": str(cache)}


def printed(installed: Path, folder: Path, *arguments: str) -> str:
    return subprocess.run(
        command(installed, *arguments),
        cwd=folder,
        env=environment(installed, folder.parent / "cache"),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def test_the_wheel_has_every_file_of_the_package_and_the_default_settings(wheel: Path) -> None:
    package = ROOT / "localinfra"
    files = (path for path in package.rglob("*") if path.is_file())
    wanted = {str(path.relative_to(ROOT)) for path in files if path.suffix != ".pyc"}
    with zipfile.ZipFile(wheel) as archive:
        had = {name for name in archive.namelist() if name.startswith("localinfra/")}
    assert had == wanted | {"localinfra/models.toml"}


def test_a_server_from_the_wheel_answers_in_an_empty_folder(
    installed: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    listed = printed(installed, empty, "list")
    assert f"from {installed}/localinfra/models.toml" in listed
    assert re.search(r"SmolLM2-135M-Instruct +text +present", listed)

    serve, cache = command(installed, "serve", "--port", "0"), tmp_path / "cache"
    pipes = {"stdout": subprocess.PIPE, "text": True}
    with started(serve, cwd=empty, env=environment(installed, cache), **pipes) as popen:
        server = ServeProcess(popen)
        message = {"role": "user", "content": "Hi"}
        body = {"model": "default", "messages": [message], "max_tokens": 4}
        request = urllib.request.Request(
            f"{server.url}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            assert json.load(response)["usage"]["completion_tokens"]
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("arguments", [(), ("doctor",)])
def test_what_the_wheel_proposes_needs_no_checkout(
    installed: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    assert "scripts/" not in printed(installed, tmp_path, *arguments)
