"""`localinfra serve` as a process without a loaded model: addresses, logs, and the end."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from children import Terminal
from serve_process import ServeProcess, serving
from serving import has_ipv6

Start = Callable[..., "Process"]


class Process(ServeProcess):
    """Serves a model whose file is missing. Started with signals as a terminal leaves them."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        files: tuple[int, int] | None = None,  # the soft and the hard limit of descriptors
        server: str = "",
        patch: str = "",
        joined: bool = False,  # the log goes where the output goes
    ) -> None:
        (folder / "models.toml").write_text(
            f"[server]\nkeep_costs = false\n{server}\n"
            '[model."absent"]\nkind = "text"\nsource = "hf:owner/repo/file.gguf"\n'
        )
        program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        if files:
            program += f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, {files})\n"
        program += f"{patch}\nfrom localinfra.cli.main import main; main()"
        options = ["--config", str(folder / "models.toml"), "--port", "0"]
        self.errors = folder / "stderr"
        with self.errors.open("wb") as errors:
            popen = subprocess.Popen(
                [sys.executable, "-c", program, "serve", *options, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if joined else errors,
                text=True,
            )
        super().__init__(popen)

    @property
    def log(self) -> str:
        return self.errors.read_text()

    def get(self, path: str, host: str = "127.0.0.1") -> tuple[int, dict[str, object]]:
        with contextlib.closing(http.client.HTTPConnection(host, self.port, timeout=600)) as http_:
            http_.request("GET", path)
            answer = http_.getresponse()
            return answer.status, json.loads(answer.read())

    def end(self, timeout_s: float = 60) -> int:
        try:
            return self.popen.wait(timeout_s)
        finally:
            self.kill()

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()
        assert self.popen.stdout is not None
        self.popen.stdout.close()

    def wait_for_log(self, words: str) -> None:
        deadline = time.monotonic() + 120
        while words not in self.log:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    processes: list[Process] = []

    def start_one(*arguments: str, **options: object) -> Process:
        folder = tmp_path / str(len(processes))
        folder.mkdir()
        processes.append(Process(folder, *arguments, **options))  # type: ignore[arg-type]
        return processes[-1]

    yield start_one
    for process in processes:
        process.kill()


def test_localhost_means_both_addresses_on_one_port(start: Start) -> None:
    process = start()
    assert process.get("/health")[0] == 200
    if has_ipv6():
        assert process.get("/health", "::1")[0] == 200


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_ollamas_clients_may_have_a_port_of_their_own(start: Start) -> None:
    process = start(server=f"ollama_port = {(port := free_port())}")
    assert process.get("/health")[0] == 200
    assert f"http://localhost:{port}" in process.banner or f"127.0.0.1:{port}" in process.banner
    process.port = port
    assert process.get("/api/tags") == (200, {"models": []})


def test_without_that_port_the_server_says_who_has_it_and_goes_on(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start(server=f"ollama_port = {taken.getsockname()[1]}")
        assert process.get("/health")[0] == 200
        assert "choose another ollama_port" in process.log
        assert "for Ollama" not in process.banner and "Ollama's" not in process.banner
    if Path("/proc").exists():
        assert f"(process {os.getpid()})" in process.log


def test_an_address_means_only_that_address(start: Start) -> None:
    process = start("--host", "127.0.0.1")
    assert process.get("/health")[0] == 200
    with pytest.raises(OSError):
        process.get("/health", "::1")


def refused_start(*arguments: str) -> str:
    command = [sys.executable, "-m", "localinfra", "serve", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1  # so nothing was loaded either
    return done.stderr


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_port_in_use_is_found_first_and_its_process_named(address: str) -> None:
    if address == "::1" and not has_ipv6():
        pytest.skip("no IPv6 on this machine")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as taken:
        said = refused_start("--port", str(taken.getsockname()[1]))
    assert "--port" in said
    if Path("/proc").exists():
        assert f"(process {os.getpid()})" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "nowhere.invalid"], "the host name has no address"),
        (["--host", "192.0.2.1"], "API key"),
    ],
)
def test_an_unusable_address_says_why(arguments: list[str], words: str) -> None:
    os.environ.pop("LOCALINFRA_API_KEYS", None)
    key = {"LOCALINFRA_API_KEYS": "k"} if "nowhere" in arguments[1] else {}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in key.items():
            patch.setenv(name, value)
        assert words in refused_start("--port", "0", *arguments)


def test_a_refused_request_is_one_line_of_the_log(start: Start) -> None:
    process = start()
    assert process.get("/health")[0] == 200
    assert process.get("/v1/nowhere")[0] == 404
    with socket.create_connection(("127.0.0.1", process.port), 30) as raw:
        raw.sendall(b"nonsense\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400")
    process.wait_for_log("not valid HTTP")
    process.wait_for_log("GET /v1/nowhere 404 not_found")  # another connection: in any order
    assert len(process.log.splitlines()) == 2


def test_programs_may_have_a_log_of_json_lines(start: Start) -> None:
    """And nothing else, also where the output is joined with the log."""
    process = start("-v", server='log_format = "json"', joined=True)
    process.get("/health")
    process.get("/v1/nowhere")
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.stdout is not None
    rest = process.popen.stdout.read()
    assert process.end() == 0
    lines = [json.loads(line) for line in (process.banner + rest).splitlines()]
    assert f"localinfra answers at {process.url}/v1" in [line["message"] for line in lines]
    told = [line for line in lines if line["logger"] == "localinfra.requests"]
    assert [(line["path"], line["status"]) for line in told] == [
        ("/health", 200),
        ("/v1/nowhere", 404),
    ]
    assert all(line["request_id"] for line in told)


@pytest.mark.parametrize(
    ("arguments", "seen", "unseen"),
    [
        (["-v"], ["GET /health 200", "GET /v1/nowhere 404"], []),
        (["--log-level", "debug"], ["GET /health 200", "GET /v1/nowhere 404"], []),
        (["--log-level", "error"], [], ["GET"]),
    ],
)
def test_the_log_level_follows_the_options(
    start: Start, arguments: list[str], seen: list[str], unseen: list[str]
) -> None:
    process = start(*arguments)
    process.get("/health")
    process.get("/v1/nowhere")
    process.popen.send_signal(signal.SIGTERM)
    assert process.end() == 0
    assert all(words in process.log for words in seen)
    assert not any(words in process.log for words in unseen)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_idle_ends_it_with_0(start: Start, number: int) -> None:
    process = start()
    with socket.create_connection(("127.0.0.1", process.port), 30) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n")  # and no more
        process.popen.send_signal(number)
        assert process.end() == 0


@pytest.mark.parametrize("has_nohup", [False, True])
def test_it_ends_with_its_terminal_unless_nohup_keeps_it(tmp_path: Path, has_nohup: bool) -> None:
    (tmp_path / "models.toml").write_text("server.keep_costs = false")
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN) if has_nohup else None
    try:
        arguments = "--config", str(tmp_path / "models.toml"), "--port", "0"
        terminal = Terminal("serve", *arguments)
    finally:
        if has_nohup:
            signal.signal(signal.SIGHUP, ignored)
    with terminal:
        port = int(re.findall(r"http://[^/:]+:(\d+)", terminal.until("Press Ctrl-C"))[0])
        window, terminal.fd = terminal.fd, os.open(os.devnull, os.O_RDONLY)
        os.close(window)
        if has_nohup:
            with socket.create_connection(("127.0.0.1", port), 30) as raw:
                raw.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert b"200" in raw.recv(100)
        else:
            assert terminal.exit_code() == 0


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has none")
def test_a_reload_that_is_asked_for_during_the_start_waits(start: Start) -> None:
    asks = (
        "import os, signal; from localinfra.cli import serve; bring = serve.bring_libraries\n"
        "serve.bring_libraries = lambda found: (os.kill(os.getpid(), signal.SIGHUP), bring(found))"
    )
    process = start(patch=asks)
    assert process.get("/health")[0] == 200
    while "reloaded: no model has changed" not in process.log:
        assert process.popen.poll() is None
        time.sleep(0.02)


def test_without_a_llama_cpp_that_works_others_are_served(start: Start) -> None:
    broken = "from localinfra import llama_usable; llama_usable.problem = lambda: 'it is broken'"
    preloaded = '[model."first"]\nkind = "text"\nsource = "hf:owner/repo/file.gguf"\npreload = true'
    process = start(server=preloaded, patch=broken)
    assert process.get("/v1/models")[0] == 200
    while "first can't be loaded: llama.cpp can't be used: it is broken" not in process.log:
        assert process.popen.poll() is None
        time.sleep(0.02)


def test_a_second_signal_ends_it_at_once(start: Start) -> None:
    process = start()
    head = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", process.port), 30) as raw:
        raw.sendall(head + b"content-length: 100\r\nexpect: 100-continue\r\n\r\n")
        assert b"100 Continue" in raw.recv(100)  # the request is being worked on
        process.popen.send_signal(signal.SIGTERM)
        process.wait_for_line("Press Ctrl-C again")
        process.popen.send_signal(signal.SIGTERM)
        assert process.end(20) == 130


def test_a_shutdown_that_hangs_is_cut_off(start: Start) -> None:
    """Models are freed in threads and by C code, which may hang."""
    process = start(
        server="shutdown_timeout_s = 0.5",
        patch="import time; from localinfra import runtime; from localinfra.cli import foreground\n"
        "async def hang(self): time.sleep(3600)\n"
        "runtime.Runtime.close = hang; foreground.CANCEL_S = 1.0",
    )
    process.popen.send_signal(signal.SIGTERM)
    assert process.end() == 1
    assert "hang" in process.log  # where it hung


def test_more_connections_than_descriptors_still_get_an_answer(start: Start) -> None:
    process = start(files=(128, 128))
    idle = [socket.create_connection(("127.0.0.1", process.port), 30) for _ in range(200)]
    assert process.get("/health")[0] == 200
    process.wait_for_log("closing the oldest")
    assert "Too many open files" not in process.log
    for connection in idle:
        connection.close()


def test_the_descriptor_limit_is_raised_as_far_as_allowed(start: Start) -> None:
    limits = Path("/proc") / str(start(files=(128, 2000)).popen.pid) / "limits"
    if not limits.exists():
        pytest.skip("this system does not show a process's limits")
    [line] = [line for line in limits.read_text().splitlines() if "open files" in line]
    assert int(line.split()[3]) > 1024  # the default of max_connections


@pytest.mark.parametrize("source", [".", "models.toml"])
def test_a_source_that_is_not_a_model_is_refused_at_start(tmp_path: Path, source: str) -> None:
    path = tmp_path / "models.toml"
    path.write_text(f'[model.x]\nkind = "text"\nsource = "{source}"\n')
    command = [sys.executable, "-m", "localinfra", "serve", "--port", "0", "--config", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f'error: {path}: [model."x"] source: {tmp_path}')


def test_a_settings_file_with_a_bom_and_no_models_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text("[server]\nkeep_costs = false\n", encoding="utf-8-sig")
    with serving("--config", str(path)) as process:
        assert "no model yet" in process.banner
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(60) == 0
        assert process.popen.stderr and f"add tables to {path}" in process.popen.stderr.read()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "/nowhere/models.toml"], "no such settings file"),
        (["--host", "0.0.0.0"], "API key"),
        (["--port", "99999"], "99999"),
    ],
)
def test_a_wrong_option_is_an_error_without_a_traceback(arguments: list[str], words: str) -> None:
    command = [sys.executable, "-m", "localinfra", "serve", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 2
    assert words in ended.stderr and "Traceback" not in ended.stderr
