"""Pictures fetched for clients: what is fetched, from whom, and how it ends."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from localinfra.addresses import is_public, parse_ip
from localinfra.models.fetch import lookup, picture
from localinfra.models.fetch.picture import MAX_URL_CHARS, NotFetched, fetch_picture

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
MOST = 1 << 20
LONG_S = 600.0

Talk = Callable[[socket.socket], None]


@contextmanager
def serving(*talks: Talk) -> Iterator[str]:
    """A server that has each talk with one client, in turn. Yields its URL."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def serve() -> None:
            for talk in talks:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with closing(client):
                    try:
                        talk(client)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://localhost:{listener.getsockname()[1]}/picture.png?size=1"
        with socket.socket() as last:  # for talks that nobody wanted
            last.connect_ex(listener.getsockname())
    thread.join()


def saying(answer: bytes, heard: list[bytes] | None = None) -> Talk:
    def talk(client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(65536)
        if heard is not None:
            heard.append(head)
        client.sendall(answer)

    return talk


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """For those tests that need somebody to talk to."""
    real = lookup.addresses_of
    monkeypatch.setattr(picture, "is_public", lambda address: str(address) == "127.0.0.1")
    monkeypatch.setattr(
        picture,
        "addresses_of",
        lambda host, port: ["127.0.0.1"] if host == "localhost" else real(host, port),
    )


@pytest.mark.parametrize(
    "text",
    """127.0.0.1 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 0.0.0.0 100.64.0.1 192.0.2.1
    198.18.0.1 224.0.0.1 255.255.255.255 ::1 :: fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254 ff02::1
    ::ffff:127.0.0.1 ::ffff:10.0.0.1 64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe 2002:7f00:1::
    2002:c0a8:101::1 2001:db8::1""".split(),
)
def test_no_other_network_counts_as_public(text: str) -> None:
    address = parse_ip(text)
    assert address and not is_public(address)


@pytest.mark.parametrize("text", ["1.1.1.1", "2606:4700::1111", "64:ff9b::1.1.1.1"])
def test_hosts_of_the_internet_are_public(text: str) -> None:
    address = parse_ip(text)
    assert address and is_public(address)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://localhost:1/a", "not on the public internet"),
        ("http://127.0.0.1:1/a", "not on the public internet"),
        ("http://127.1:1/a", "not on the public internet"),
        ("http://2130706433:1/a", "not on the public internet"),
        ("http://0x7f000001:1/a", "not on the public internet"),
        ("http://[::1]:1/a", "not on the public internet"),
        ("http://[::ffff:127.0.0.1]:1/a", "not on the public internet"),
        ("http://169.254.169.254/latest/meta-data", "not on the public internet"),
        ("http://nobody.invalid/a", "has no address"),
        ("ftp://example.org/a", "no URL of http"),
        ("file:///etc/passwd", "no URL of http"),
        ("http:///a", "no URL of http"),
        ("http://[::1/a", "no URL of http"),
        ("http://a:99999/a", "no URL of http"),
        ("http://user:secret@example.org/a", "password"),
        (f"http://example.org/{'a' * MAX_URL_CHARS}", "more than 16384 characters"),
        ("http://example.org/a b\r\nX: y", "must be escaped|no URL|has no address"),
    ],
)
def test_what_is_never_fetched(url: str, why: str) -> None:
    with pytest.raises(NotFetched, match=why):
        fetch_picture(url, MOST, LONG_S)


@pytest.mark.usefixtures("loopback_is_public")
def test_a_picture_comes_without_keys_and_cookies() -> None:
    heard: list[bytes] = []
    with serving(saying(OK, heard)) as url:
        assert fetch_picture(url, MOST, LONG_S) == b"hello"
    head = heard[0].decode().lower()
    assert head.startswith("get /picture.png?size=1 http/1.1\r\n")
    assert "host: localhost:" in head and "authorization" not in head and "cookie" not in head


@pytest.mark.usefixtures("loopback_is_public")
def test_the_environment_s_proxy_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serving(saying(OK)) as url:
        assert fetch_picture(url, MOST, LONG_S) == b"hello"


def redirect(to: str) -> Talk:
    return saying(f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode())


@pytest.mark.usefixtures("loopback_is_public")
def test_redirects_are_followed_and_checked_like_the_first_url() -> None:
    with serving(redirect("/other"), saying(OK)) as url:
        assert fetch_picture(url, MOST, LONG_S) == b"hello"
    for to, why in (
        ("http://169.254.169.254/", "not on the public internet"),
        ("http://10.1.2.3/", "not on the public internet"),
        ("file:///etc/passwd", "no URL of http"),
        ("http://[", "no URL of http"),
    ):
        with serving(redirect(to)) as url, pytest.raises(NotFetched, match=why):
            fetch_picture(url, MOST, LONG_S)
    with serving(*[redirect("/again")] * 4) as url, pytest.raises(NotFetched, match="too often"):
        fetch_picture(url, MOST, LONG_S)


def test_a_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "addresses_of", lambda *_: ["1.1.1.1", "192.168.0.1"])
    with pytest.raises(NotFetched, match="not on the public internet"):
        fetch_picture("http://both.example/a", MOST, LONG_S)


def test_a_name_is_looked_up_once_for_check_and_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    reached: list[object] = []

    def look_up(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["1.1.1.1" if len(asked) == 1 else "127.0.0.1"]

    def connect(address: object, timeout: float) -> socket.socket:
        reached.append(address)
        raise OSError("no network in tests")

    monkeypatch.setattr(picture, "addresses_of", look_up)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(NotFetched, match="can't be reached"):
        fetch_picture("http://rebinding.example/a", MOST, LONG_S)
    assert asked == ["rebinding.example"] and reached == [("1.1.1.1", 80)]


def dripping(client: socket.socket) -> None:
    saying(b"HTTP/1.1 200 OK\r\nX: ")(client)
    while True:
        client.sendall(b"a")
        threading.Event().wait(0.01)


def silent(client: socket.socket) -> None:
    while client.recv(65536):
        pass


def endless(client: socket.socket) -> None:
    saying(b"HTTP/1.1 200 OK\r\n\r\n")(client)
    while True:
        client.sendall(bytes(65536))


@pytest.mark.usefixtures("loopback_is_public")
@pytest.mark.parametrize("talk", [dripping, silent])
def test_a_slow_server_is_left_in_time(talk: Talk) -> None:
    with serving(talk) as url, pytest.raises(NotFetched, match="takes too long"):
        fetch_picture(url, MOST, 0.3)


@pytest.mark.usefixtures("loopback_is_public")
@pytest.mark.parametrize(
    ("talk", "why"),
    [
        (endless, "more than 1 MiB"),
        (saying(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"), "more than 1 MiB"),
        (saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"), "did not come whole"),
        (saying(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"), "status 404"),
        (saying(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "did not come whole"),
        (saying(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500 + b"\r\n"), "did not come whole"),
        (saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz"), "did not come whole"),
        (saying(b""), "did not come whole"),
    ],
)
def test_what_comes_instead_of_a_picture(talk: Talk, why: str) -> None:
    with serving(talk) as url, pytest.raises(NotFetched, match=why):
        fetch_picture(url, MOST, LONG_S)


@pytest.mark.usefixtures("loopback_is_public")
def test_a_certificate_must_be_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    def secret(client: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        folder = Path(__file__).parent.parent / "certificates"
        context.load_cert_chain(folder / "first.pem", folder / "first.key")
        with context.wrap_socket(client, server_side=True) as wrapped:
            saying(OK)(wrapped)

    with serving(secret) as url, pytest.raises(NotFetched, match="certificate is not valid"):
        fetch_picture(url.replace("http:", "https:"), MOST, LONG_S)
