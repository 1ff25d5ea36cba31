"""A supervised server is back after a death, while its clients wait; and what ends it for good."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from children import Terminal, started
from serve_process import ServeProcess
from supervised import ABORTS, supervised

import localinfra

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

HANGS_ONCE = """
import ctypes, pathlib
from localinfra.engine.scheduler import Scheduler
schedule, flag = Scheduler.schedule, pathlib.Path({flag!r})
def hang(self, *arguments):
    if not flag.exists():
        flag.touch()
        ctypes.CDLL(None).pause()
    return schedule(self, *arguments)
Scheduler.schedule = hang
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_clients_wait_for_the_next_server_and_none_is_refused(tmp_path: Path) -> None:
    with supervised(tmp_path) as process:
        assert process.complete()[0] == 200
        process.kill_server()
        assert process.complete()[0] == 200  # of the process that is just starting
        process.popen.send_signal(signal.SIGHUP)
        process.wait_for_log("reloaded: no model has changed")
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait() == 0
        with pytest.raises(ConnectionRefusedError):
            process.complete()
        assert not list(process.cache.glob("deaths/*"))  # nobody is to blame for a kill -9


def test_the_server_ends_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    with supervised(tmp_path) as process:
        server = process.server
        process.popen.kill()
        process.popen.wait()
        while is_alive(server):
            time.sleep(0.01)


def test_a_second_signal_ends_both_at_once(tmp_path: Path) -> None:
    with supervised(tmp_path, server="shutdown_timeout_s = 600") as process:
        head = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n"
        head += b"content-type: application/json\r\nexpect: 100-continue\r\n\r\n"
        with socket.create_connection(("127.0.0.1", process.port)) as raw:
            raw.sendall(head)
            assert b"100 Continue" in raw.recv(100)
            server = process.server
            process.popen.send_signal(signal.SIGTERM)
            process.wait_for_line("Finishing 1 running")
            process.popen.send_signal(signal.SIGTERM)
            assert process.popen.wait() == 130 and not is_alive(server)


def test_it_ends_with_its_terminal(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text("server.keep_costs = false")
    options = "--supervised", "--config", str(tmp_path / "models.toml"), "--port", "0"
    with Terminal("serve", *options) as terminal:
        terminal.until("Press Ctrl-C")
        window, terminal.fd = terminal.fd, os.open(os.devnull, os.O_RDONLY)
        os.close(window)
        assert terminal.exit_code() == 0


def test_settings_that_can_not_be_used_end_it_at_once(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text("server.prot = 1")
    options = ["--supervised", "--config", str(tmp_path / "models.toml")]
    command = [sys.executable, "-m", "localinfra", "serve", *options]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2 and len(ended.stderr.splitlines()) == 1


def test_settings_that_are_just_being_written_are_read_again_later(tmp_path: Path) -> None:
    with supervised(tmp_path) as process:
        assert process.complete()[0] == 200
        file = tmp_path / "models.toml"
        settings = file.read_text()
        file.write_text(settings[: len(settings) // 2] + "[")
        process.kill_server()
        process.wait_for_log("ended with status 2 before it listened; next try in")
        part = file.with_suffix(".part")
        part.write_text(settings)
        part.replace(file)
        assert process.complete()[0] == 200  # who asked meanwhile has waited


ORPHANS = """
import os, subprocess
if "LOCALINFRA_HANDED_OVER" in os.environ:
    orphan = subprocess.Popen(["true"])  # held, so that nobody takes note of its end
else:
    import ctypes
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what a container's first process is
"""


def test_what_a_dead_server_has_started_leaves_no_zombies(tmp_path: Path) -> None:
    with supervised(tmp_path, patch=ORPHANS) as process:
        children = Path(f"/proc/{process.popen.pid}/task/{process.popen.pid}/children")
        for _ in range(2):
            assert process.complete()[0] == 200
            assert len(children.read_text().split()) == 1
            process.kill_server()


READ_ONLY = """
for folder in /tmp /var/tmp; do
    mount --bind $folder $folder
    mount -o remount,ro,bind $folder
done
cd /proc
exec "$@"
"""


def test_it_runs_where_nothing_can_be_written(tmp_path: Path) -> None:
    """As in a container whose file system is read-only."""
    probe = ["unshare", "-m", "sh", "-ec", READ_ONLY, "sh", "true"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("only root may mount")
    (tmp_path / "models.toml").write_text("server.ollama_api = false")
    options = "--supervised", "--port", "0", "--config", str(tmp_path / "models.toml")
    command = [*probe[:-1], sys.executable, "-m", "localinfra", "serve", *options]
    environment = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
    environment |= {f"LOCALINFRA_{name}": f"/proc/{name}" for name in ("CACHE", "DATA")}
    environment["PYTHONPATH"] = str(Path(localinfra.__file__).parents[1])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with started(command, env=environment, **pipes) as popen:
        connection = http.client.HTTPConnection("127.0.0.1", ServeProcess(popen).port)
        with contextlib.closing(connection):
            connection.request("GET", "/health")
            assert connection.getresponse().status == 200
        popen.send_signal(signal.SIGTERM)
        assert popen.wait() == 0


def test_a_model_that_kills_the_server_is_loaded_more_safely_then_not_at_all(
    tmp_path: Path,
) -> None:
    with supervised(tmp_path, patch=ABORTS) as process:
        for number in range(3):
            status, answer = process.complete()
            assert (status, answer["error"]["code"]) == (503, "server_died")
            process.wait_for_log("tiny: the server died of SIGABRT while reading", number + 1)
            status, card = process.ask("GET", "/v1/models/tiny")
            is_safer = number == 1
            assert status == 200 and ("safer settings" in card.get("trouble", "")) == is_safer
        assert card["state"] == "quarantined"
        status, answer = process.complete()
        assert (status, answer["error"]["code"]) == (503, "model_quarantined")
        assert "ended the server 3 times" in answer["error"]["message"]
        assert "`localinfra reload`" in answer["error"]["message"]
        assert process.ask("GET", "/health")[0] == 200  # others are served
        shown = subprocess.run(
            [sys.executable, "-m", "localinfra", "show", "tiny", "--config", "models.toml"],
            cwd=tmp_path, capture_output=True, text=True, check=True,
            env=os.environ | {"LOCALINFRA_CACHE": str(process.cache)},
        )  # fmt: skip
        assert "is not loaded any more" in shown.stdout
        process.ask("POST", "/v1/models/reload", {})
        assert process.ask("GET", "/v1/models/tiny")[1]["state"] == "present"
        assert process.complete()[1]["error"]["code"] == "server_died"  # it is loaded again


def test_an_engine_that_hangs_is_shown_in_the_log_and_its_process_replaced(tmp_path: Path) -> None:
    patch = HANGS_ONCE.format(flag=str(tmp_path / "has_hung"))
    with supervised(tmp_path, server="watchdog_s = 1", patch=patch) as process:
        status, answer = process.complete()
        assert status == 500 and "made no step" in answer["error"]["message"]
        assert process.complete()[0] == 200
        assert "in schedule" in process.log or "in hang" in process.log  # the thread's stack
        process.wait_for_log("tiny: the server made no step")
