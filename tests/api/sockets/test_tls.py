"""TLS: what a client can do to it before it is one of HTTP, and certificates that are renewed."""

import asyncio
import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from raw_http import GET, SHORT, app, is_refused
from serving import CERTIFICATES, WITH_TLS, Serving, Talk, trusting_tests, with_tls
from waiting import wait_for

from localinfra.api.http.hosts import OriginRules, parse_authority
from localinfra.config.settings import ServerSettings

HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"  # how one of 512 bytes begins
FEW = with_tls(ServerSettings(max_connections=20))


@pytest.fixture(scope="module")
def has_tls() -> bool:
    return True


def hello() -> bytes:
    """The first bytes of a client."""
    sent, received = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        trusting_tests().wrap_bio(received, sent, server_hostname="localhost").do_handshake()
    return sent.read()


@pytest.mark.parametrize("num_bytes", [0, 1, 50, 10_000], ids=["nothing", "1", "50", "all"])
def test_clients_that_begin_and_say_no_more_hold_no_place(
    serve: Callable[[ServerSettings], Serving], num_bytes: int
) -> None:
    serving = serve(FEW)
    silent = [serving.connect_plainly() for _ in range(200)]
    for one in silent:
        Talk(one).send(hello()[:num_bytes])
    with serving.talk() as talk:
        assert talk.ask(GET).status == 200
    wait_for(lambda: len(serving.server.open) <= 20)
    for one in silent:
        one.close()
    wait_for(lambda: len(serving.server.open) == 0)


@pytest.mark.parametrize("num_bytes", [0, 1, 50, 10_000], ids=["nothing", "1", "50", "all"])
def test_a_handshake_has_a_time_limit(
    serve: Callable[[ServerSettings], Serving], num_bytes: int
) -> None:
    serving = serve(SHORT)
    with serving.connect_plainly() as silent:
        Talk(silent).send(hello()[:num_bytes])
        assert Talk(silent).is_closed()
    wait_for(lambda: len(serving.server.open) == 0)


@pytest.mark.parametrize(
    "sent",
    [b"\0" * 5000, b"\x16\x03\x01" + b"\xff" * 5000, HELLO + b"\0" * 2000],
    ids=["zeros", "records", "hello"],
)
def test_garbage_ends_its_own_connection_alone(
    serve: Callable[[ServerSettings], Serving], sent: bytes
) -> None:
    serving = serve(FEW)
    garbage = [serving.connect_plainly() for _ in range(200)]
    with serving.talk() as kept:
        assert kept.ask(GET).status == 200
        for one in garbage:
            Talk(one).send(sent)
        assert all(Talk(one).is_closed() for one in garbage)
    with serving.talk() as talk:
        assert talk.ask(GET).status == 200
    for one in garbage:
        one.close()


def test_a_hello_byte_by_byte_is_read(server: Serving) -> None:
    with server.connect_plainly() as plain:
        sent, received = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = trusting_tests().wrap_bio(received, sent, server_hostname="localhost")
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                for byte in sent.read():
                    plain.sendall(bytes([byte]))
                received.write(plain.recv(65536))
        client.write(GET)
        plain.sendall(sent.read())  # with the end of the handshake, at once
        while True:
            received.write(plain.recv(65536))
            try:
                assert client.read(65536).startswith(b"HTTP/1.1 200")
                break
            except ssl.SSLWantReadError:  # tickets for later sessions
                pass


def test_plain_http_is_told_to_use_https(server: Serving, caplog: pytest.LogCaptureFixture) -> None:
    with server.connect_plainly() as plain:
        reply = Talk(plain).ask(GET)
        assert is_refused(reply, 400) and "https://" in str(reply.error["message"])
    assert "use https://" in caplog.text


def test_tls_for_a_plain_server_is_told_to_use_http() -> None:
    serving = Serving(app)
    with serving.connect_plainly() as plain:
        reply = Talk(plain).ask(hello())
        assert is_refused(reply, 400) and "tls_cert" in str(reply.error["message"])
    serving.close()


def test_a_client_that_does_not_trust_the_certificate_is_logged(
    server: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with server.connect_plainly() as plain, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")
    wait_for(lambda: "does not trust this server's certificate" in caplog.text)


def test_beyond_the_limit_clients_are_told_so_in_their_own_language(
    serve: Callable[[ServerSettings], Serving],
) -> None:
    serving = serve(ServerSettings(max_connections=1))
    with serving.connect() as flood:
        flood.sendall(b"GET /flood HTTP/1.1\r\n\r\n")
        assert flood.recv(1)
        with serving.talk() as talk:
            assert is_refused(talk.ask(GET), 503)
        # Those that are refused and silent are few.
        silent = [serving.connect_plainly() for _ in range(100)]
        wait_for(lambda: len(serving.server.open) <= 17)
        for one in silent:
            one.close()


def test_an_idle_client_does_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    serving = Serving(app, WITH_TLS)
    with serving.talk() as idle, serving.connect_plainly():
        assert idle.ask(GET).status == 200
        serving.close()
        assert idle.is_closed()
    assert "graceful shutdown exceeded" not in caplog.text


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_which_versions_are_spoken(server: Serving, version: ssl.TLSVersion) -> None:
    context = trusting_tests()
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    with context.wrap_socket(server.connect_plainly(), server_hostname="localhost") as client:
        assert Talk(client).ask(GET).status == 200
        assert client.selected_alpn_protocol() == "http/1.1"


def test_older_versions_are_not() -> None:
    serving = Serving(app, WITH_TLS)
    certificate = serving.server.renewal.certificate
    assert certificate and certificate.context.minimum_version == ssl.TLSVersion.TLSv1_2
    serving.close()


@pytest.mark.parametrize("loop", ["asyncio", "auto"])
def test_any_loop_will_do(loop: str) -> None:
    """uvloop, where it is installed, and Python's own."""
    serving = Serving(app, WITH_TLS, loop=loop)
    with serving.talk() as talk:
        for _ in range(3):
            assert talk.ask(GET).status == 200
        talk.send(b"GET /large HTTP/1.1\r\n\r\n")
        assert len(talk.reply().body) == 8 << 20
    with serving.connect_plainly() as plain:
        assert is_refused(Talk(plain).ask(GET), 400)
    wait_for(lambda: len(serving.server.open) == 0)
    serving.close()


# --- Certificates that are renewed --------------------------------------------------------------


@pytest.fixture
def renewed(tmp_path: Path) -> Iterator[Serving]:
    put("first", tmp_path)
    settings = ServerSettings(tls_cert=str(tmp_path / "cert"), tls_key=str(tmp_path / "key"))
    serving = Serving(app, settings)
    yield serving
    serving.close()


def put(name: str, folder: Path) -> None:
    replace(CERTIFICATES / f"{name}.pem", folder / "cert")
    replace(CERTIFICATES / f"{name}.key", folder / "key")


def replace(source: Path, target: Path) -> None:
    """At once: the server looks of itself, too."""
    new = target.with_suffix(".new")
    shutil.copy(source, new)
    new.replace(target)


def look(serving: Serving) -> None:
    async def wait() -> None:
        serving.server.renewal.look(serving.server.open.settings)
        while serving.server.renewal.is_looking:
            await asyncio.sleep(0.01)

    serving.run(wait())


def subject(connection: socket.socket) -> str:
    assert isinstance(connection, ssl.SSLSocket)
    found = connection.getpeercert()
    assert found
    return str(found["subject"])


def test_a_renewed_certificate_is_for_new_connections_and_old_ones_live_on(
    renewed: Serving, tmp_path: Path
) -> None:
    with renewed.talk() as old:
        assert old.ask(GET).status == 200
        put("second", tmp_path)
        look(renewed)
        with renewed.talk() as new:
            assert new.ask(GET).status == 200
            assert "first of" in subject(old.connection) and "second of" in subject(new.connection)
        assert old.ask(GET).status == 200


def test_a_wrong_one_is_logged_once_and_the_old_one_stays(
    renewed: Serving, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replace(CERTIFICATES / "second.pem", tmp_path / "cert")  # half a renewal
    for _ in range(2):
        look(renewed)
    assert caplog.text.count("the certificate stays as it was") == 1
    with renewed.connect() as client:
        assert "first of" in subject(client)
    put("second", tmp_path)
    look(renewed)
    with renewed.connect() as client:
        assert "second of" in subject(client)


# --- Pages --------------------------------------------------------------------------------------


def test_a_plain_page_is_not_one_of_a_server_with_tls() -> None:
    """Whoever changes plain pages on their way could use the server with them."""
    host, rules = parse_authority("server.test"), OriginRules()
    assert host
    assert rules.allows("https://server.test", host, is_encrypted=True)
    assert not rules.allows("http://server.test", host, is_encrypted=True)
    assert rules.allows("https://server.test", host)  # through a proxy
