"""`localinfra ray` before Ray comes into play."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from localinfra.cli.main import main
from localinfra.cli.ray import banner, read, serve_until_signal
from localinfra.errors import ConfigError

MODELS = '[server]\nserve_pulled = false\n[model.m]\nkind = "text"\nsource = "m.gguf"\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "models.toml"
    path.write_text(MODELS)
    return path


def test_without_ray_it_says_how_to_install_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "localinfra.ray_serve", None)
    done = CliRunner().invoke(main, ["ray", str(path)])
    assert done.exit_code == 2
    assert "pip install 'localinfra[ray]'" in done.stderr


def test_mistakes_in_groups_end_it_before_anything_starts(path: Path) -> None:
    path.write_text(MODELS + '[ray.group.chat]\nmodels = ["n"]\n')
    done = CliRunner().invoke(main, ["ray", str(path)])
    assert done.exit_code == 2
    assert 'models: no model is called "n"; known: m' in done.stderr


def test_stop_asks_for_the_cluster(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = CliRunner().invoke(main, ["ray", str(path), "--stop"])
    assert done.exit_code == 2 and "--address" in done.stderr


def test_other_machines_need_a_key_as_ever(path: Path) -> None:
    with pytest.raises(ConfigError, match="without an API key"):
        read(path, {"host": "0.0.0.0"})
    path.write_text(MODELS.replace("[server]", '[server]\napi_keys = ["secret"]'))
    assert read(path, {"host": "0.0.0.0", "port": 9000}).server.port == 9000


def test_the_banner_says_where_it_answers_and_what_runs(path: Path) -> None:
    config = read(path, {"port": 9000})
    text = banner(config, {"gateway": {"RUNNING": 1}, "models-others": {"RUNNING": 2}}, is_own=True)
    assert "http://localhost:9000/v1" in text and "models-others: 2" in text
    assert "Ctrl-C" in text


@pytest.fixture
def handlers() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_sighup_deploys_again_and_sigterm_ends_it(
    handlers: None, caplog: pytest.LogCaptureFixture
) -> None:
    deployed = []

    def deploy() -> None:
        deployed.append(True)
        if len(deployed) == 1:
            os.kill(os.getpid(), signal.SIGHUP)
            raise ConfigError("models.toml: wrong")
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGHUP)

    def hang_up() -> None:
        while signal.getsignal(signal.SIGHUP) is before:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGHUP)

    thread = threading.Thread(target=hang_up)
    thread.start()
    serve_until_signal(deploy)
    thread.join()
    assert len(deployed) == 2
    assert "all stays as it was: models.toml: wrong" in caplog.text
