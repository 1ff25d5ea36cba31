"""A server with TLS as a process, and what the other commands make of it."""

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from raw_http import app
from serving import CERTIFICATES, WITH_TLS, Serving, Talk, trusting_tests
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from supervised import Supervised, supervised

from localinfra.certificate import PASSWORD
from localinfra.cli.client import Client, ServerRefused, ServerUnreachable
from localinfra.cli.connect import find_running
from localinfra.cli.main import main
from localinfra.cli.managers import url_in
from localinfra.config.settings import ServerSettings
from localinfra.errors import ApiError

SECOND = str(CERTIFICATES / "second.pem")


async def healthy(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await app(scope, receive, send)
    else:
        await Response('{"status": "ok"}')(scope, receive, send)


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    serving = Serving(healthy, WITH_TLS)
    yield serving
    serving.close()


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCALINFRA_URL", "LOCALINFRA_API_KEY", "SSL_CERT_FILE", PASSWORD):
        monkeypatch.delenv(name, raising=False)


def settings_for(server: Serving, cert: str | None) -> ServerSettings:
    """Those of a command. Only the certificate's file matters to it."""
    return ServerSettings(host="127.0.0.1", port=server.port, tls_cert=cert)


def test_commands_trust_the_certificate_of_their_settings_and_no_other(server: Serving) -> None:
    found = find_running(settings_for(server, WITH_TLS.tls_cert), None)
    assert found and found.url == server.url
    assert found.within(5).get("/health", dict[str, str]) == {"status": "ok"}
    assert find_running(settings_for(server, SECOND), None) is None
    with pytest.raises(ServerUnreachable, match="SSL_CERT_FILE"):
        Client(server.url, certificate=SECOND).get("/health", dict[str, str])


def test_a_url_alone_is_trusted_as_the_user_says(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"https://localhost:{server.port}"
    with pytest.raises(ServerUnreachable, match=r"not trusted .*SSL_CERT_FILE"):
        Client(url).get("/health", dict[str, str])
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "authority.pem"))
    assert Client(url).get("/health", dict[str, str]) == {"status": "ok"}


def test_the_wrong_scheme_is_named(server: Serving) -> None:
    with pytest.raises(ServerRefused, match="use https://"):
        Client(server.url.replace("https", "http")).get("/health", dict[str, str])
    plain = Serving(healthy)
    with pytest.raises(ApiError, match="does not speak TLS"):
        Client(plain.url.replace("http", "https")).get("/health", dict[str, str])
    plain.close()


def test_a_service_is_asked_where_it_listens() -> None:
    assert url_in("Description=localinfra at https://box:8443\n") == "https://box:8443"


# --- The process --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tls-key", "x"], "--tls-cert"),
        (["--tls-cert", "x", "--no-tls"], "contradicts"),
        (["--tls-cert", "nowhere.pem"], "nowhere.pem: No such file"),
        (["--tls-cert", SECOND], "has no private key"),
        (["--tls-cert", SECOND, "--tls-key", str(CERTIFICATES / "first.key")], "is not the key"),
    ],
)
def test_wrong_options_say_what_to_do(options: list[str], words: str) -> None:
    done = CliRunner().invoke(main, ["serve", *options])
    assert done.exit_code == 2 and words in done.output


def greeted_as(process: Supervised) -> str:
    """Whose certificate a new client is shown."""
    plain = socket.create_connection(("127.0.0.1", process.port), 600)
    with trusting_tests().wrap_socket(plain, server_hostname="localhost") as client:
        assert Talk(client).ask(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").status == 200
        found = client.getpeercert()
        assert found
        return str(found["subject"])


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_supervised_server_outlives_renewals_and_deaths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, "secret")
    shutil.copy(CERTIFICATES / "first.pem", tmp_path / "cert.pem")
    shutil.copy(CERTIFICATES / "encrypted.key", tmp_path / "key.pem")
    table = 'tls_cert = "cert.pem"\ntls_key = "key.pem"'
    with supervised(tmp_path, server=table) as process:
        assert f"{process.url}/v1" in process.banner and process.url.startswith("https:")
        assert f"--cacert {tmp_path / 'cert.pem'}" in process.banner
        assert "first of" in greeted_as(process)
        shutil.copy(CERTIFICATES / "second.pem", tmp_path / "cert.pem")
        process.popen.send_signal(signal.SIGHUP)
        process.wait_for_log("the settings stay as they were")  # its key has not come yet
        assert "first of" in greeted_as(process)
        shutil.copy(CERTIFICATES / "second.key", tmp_path / "key.pem")
        process.popen.send_signal(signal.SIGHUP)
        process.wait_for_log("new connections get the certificate")
        assert "second of" in greeted_as(process)
        process.kill_server()
        assert "second of" in greeted_as(process)  # waits for the next server
        with contextlib.closing(socket.create_connection(("127.0.0.1", process.port), 600)) as raw:
            assert Talk(raw).ask(b"GET / HTTP/1.1\r\n\r\n").status == 400
        command = [sys.executable, "-m", "localinfra", "ps", "--url"]
        url = f"https://localhost:{process.port}"
        trusting = {"SSL_CERT_FILE": str(CERTIFICATES / "authority.pem")}
        done = subprocess.run([*command, url], env=trusting, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait() == 0
