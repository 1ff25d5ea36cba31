"""`localinfra ray` before Ray comes into play."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from localinfra.cli.main import main
from localinfra.cli.ray import banner, read, serve_until_signal, staying
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
    with pytest.raises(KeyboardInterrupt):  # while it ends: at once
        signal.raise_signal(signal.SIGINT)
    assert "all stays as it was: models.toml: wrong" in caplog.text


RUNNING = {"host": "0.0.0.0", "port": 8311, "tls_cert": None, "tls_key": None}


def test_what_runs_keeps_its_address_and_is_not_opened_to_others(path: Path) -> None:
    """Its settings may say something else by now."""
    with pytest.raises(ConfigError, match=r"serving on 0\.0\.0\.0 without an API key"):
        staying(read(path, {}), RUNNING, {})
    path.write_text(MODELS.replace("[server]", '[server]\napi_keys = ["secret"]\nport = 9'))
    server = staying(read(path, {}), RUNNING, {}).server
    assert (server.host, server.port) == ("0.0.0.0", 8311)


@pytest.mark.parametrize("given", [{"port": 9}, {"host": "127.0.0.1"}, {"host": "localhost"}])
def test_options_without_effect_are_refused(path: Path, given: dict[str, object]) -> None:
    path.write_text(MODELS.replace("[server]", '[server]\napi_keys = ["secret"]'))
    with pytest.raises(ConfigError, match=f"0.0.0.0:8311 .* leave out --{next(iter(given))}"):
        staying(read(path, given), RUNNING, given)
    same = {"host": "0.0.0.0", "port": 0}
    assert staying(read(path, same), RUNNING, same).server.port == 8311


def test_a_taken_port_is_an_error_before_ray_starts(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localinfra.cli.ray.library", lambda: ModuleType("ray_serve"))
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as Ray's proxies have it
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = CliRunner().invoke(main, ["ray", str(path), "--port", str(port)])
    assert done.exit_code == 2
    assert f":{port}" in done.stderr and "listen" in done.stderr


def test_stop_needs_the_name_of_a_cluster_but_no_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = CliRunner().invoke(main, ["ray", str(tmp_path / "none.toml"), "--stop"])
    assert done.exit_code == 2
    assert "--address auto" in done.stderr
