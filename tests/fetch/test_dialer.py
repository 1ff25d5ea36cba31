"""Where a pull's connections lead, whatever name servers answer, and what they answer next."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpcore2
import httpx2
import pytest
from fetch.pulling import QUICK, pulled
from fetch.site import Site, serving

from localinfra.errors import PullFailed
from localinfra.models.fetch import dialer
from localinfra.models.fetch import line as line_file
from localinfra.models.fetch.dialer import Dialer, Elsewhere
from localinfra.models.fetch.line import Line
from localinfra.models.fetch.lookup import is_private
from localinfra.models.fetch.pace import Passing

DATA = b"GGUF\3\0\0\0" + b"\1" + bytes(7) + b"\1" + bytes(7)
# Of a public host, of one where nobody listens, and of a private one, in these tests.
OUTSIDE, DEAF, INSIDE = "127.0.0.1", "127.0.0.3", "127.0.0.2"

Names = dict[str, list[list[str]]]  # what a name server answers in turn, the last one from then on


@pytest.fixture
def inside() -> Iterator[Site]:
    """In a private network."""
    try:
        socket.create_server((INSIDE, 0)).close()
    except OSError:
        pytest.skip(f"this system has no {INSIDE}")
    with serving(INSIDE) as site:
        yield site


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    found: Names = {}

    def look_up(host: str, port: int) -> list[str]:
        answers = found.get(host, [[host]])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    monkeypatch.setattr(dialer, "addresses_of", look_up)
    monkeypatch.setattr(dialer, "is_private", lambda address: address not in (OUTSIDE, DEAF))
    return found


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that were connected to."""
    found: list[str] = []
    real = httpcore2.SyncBackend.connect_tcp

    def connect(self: httpcore2.SyncBackend, host: str, *rest: object) -> httpcore2.NetworkStream:
        found.append(host)
        return real(self, host, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connect)
    return found


def port_of(site: Site) -> int:
    port = httpx2.URL(site.url).port
    assert port
    return port


def fetched(url: str) -> bytes:
    with Line(pace=QUICK) as line, line.get(url) as response:
        return response.read()


@pytest.mark.parametrize(
    "host",
    "localhost 127.1 2130706433 ::1 ::ffff:10.0.0.1 169.254.169.254 64:ff9b::a00:1".split(),
)
def test_what_leads_into_a_private_network(host: str) -> None:
    with pytest.raises(Elsewhere):
        Dialer(private=False).connect_tcp(host, 1)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "198.18.0.7"])
def test_what_leads_to_the_internet_or_stands_for_it(address: str) -> None:
    assert not is_private(address)
    with pytest.raises(Elsewhere):
        Dialer(private=True).connect_tcp(address, 1)


def test_a_name_that_leads_elsewhere_the_second_time_leads_nowhere(
    cdn: Site, inside: Site, names: Names, reached: list[str]
) -> None:
    names["evil.example"] = [[OUTSIDE], [INSIDE]]
    cdn.redirects["/m.gguf"] = f"http://evil.example:{port_of(inside)}/admin?x"
    with pytest.raises(PullFailed, match=r"evil\.example redirects into a private network"):
        pulled(f"http://evil.example:{port_of(cdn)}/m.gguf")
    assert reached == [OUTSIDE] and not inside.requests


def test_the_address_that_was_judged_is_the_one_connected_to(
    cdn: Site, names: Names, reached: list[str]
) -> None:
    cdn.put("/m.gguf", DATA)
    names["evil.example"] = [[OUTSIDE], [INSIDE]]
    assert fetched(f"http://evil.example:{port_of(cdn)}/m.gguf") == DATA
    assert reached == [OUTSIDE] and len(names["evil.example"]) == 1


def test_later_redirects_are_judged_like_the_first(cdn: Site, inside: Site, names: Names) -> None:
    names |= {"one.example": [[OUTSIDE]], "two.example": [[OUTSIDE, INSIDE]]}
    for path, host, port in (("/a", "one", port_of(cdn)), ("/b", "two", port_of(inside))):
        cdn.redirects[path] = f"http://{host}.example:{port}/b"
    with pytest.raises(PullFailed, match=r"one\.example redirects .*: two\.example"):
        fetched(f"{cdn.url}/a")
    assert not inside.requests


def test_a_mirror_in_a_private_network_may_redirect_within_it(
    cdn: Site, inside: Site, names: Names
) -> None:
    inside.put("/b", DATA)
    inside.redirects["/a"] = f"http://other.example:{port_of(inside)}/b"
    names |= {"mirror.example": [[INSIDE]], "other.example": [[INSIDE]]}
    assert fetched(f"http://mirror.example:{port_of(inside)}/a") == DATA
    inside.redirects["/a"] = cdn.put("/c", DATA)
    assert fetched(f"http://mirror.example:{port_of(inside)}/a") == DATA


def test_whether_a_redirect_comes_from_a_private_network_its_own_connection_says(
    cdn: Site, inside: Site, names: Names
) -> None:
    """The name is one of a private network while it is judged, and of a public host after that."""
    cdn.redirects["/m.gguf"] = f"{inside.url}/admin"
    url = f"http://evil.example:{port_of(cdn)}/m.gguf"
    names["evil.example"] = [[INSIDE], [OUTSIDE], [INSIDE], [OUTSIDE]]
    with pytest.raises(Passing, match="now in one network, now in another"):
        fetched(url)
    with pytest.raises(PullFailed, match=r"redirects into a private network|in one network"):
        pulled(url)
    assert not inside.requests


def test_a_connection_into_a_private_network_serves_no_redirect_from_outside(
    cdn: Site, inside: Site, names: Names
) -> None:
    """It is still open, so nobody would look up its name."""
    cdn.redirects["/m.gguf"] = inside.put("/a", DATA)
    with Line(pace=QUICK) as line:
        with line.get(f"{inside.url}/a") as response:
            assert response.read() == DATA
        with pytest.raises(PullFailed, match="private network"), line.get(f"{cdn.url}/m.gguf"):
            pass
    assert len(inside.requests) == 1


def test_a_proxy_s_answer_leads_into_no_private_network_that_is_reached_without_it(
    cdn: Site, inside: Site, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    cdn.redirects["http://models.invalid/m.gguf"] = f"{inside.url}/admin"
    monkeypatch.setenv("http_proxy", cdn.url)
    monkeypatch.setenv("no_proxy", INSIDE)
    with pytest.raises(PullFailed, match="redirects into a private network"):
        pulled("http://models.invalid/m.gguf")
    assert not inside.requests


def test_the_next_address_is_tried_if_one_does_not_answer(
    cdn: Site, names: Names, reached: list[str]
) -> None:
    cdn.put("/m.gguf", DATA)
    names["two.example"] = [[DEAF, OUTSIDE]]
    assert fetched(f"http://two.example:{port_of(cdn)}/m.gguf") == DATA
    assert reached == [DEAF, OUTSIDE]


def test_tls_asks_for_the_name_and_checks_its_certificate(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(__file__).parent.parent / "certificates"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "first.pem", folder / "first.key")
    asked: list[object] = []
    context.sni_callback = lambda link, name, context: asked.append(name)
    trusting = ssl.create_default_context(cafile=folder / "authority.pem")
    monkeypatch.setattr(line_file, "certificates", lambda: trusting)
    names |= {"localhost": [[OUTSIDE]], "wrong.example": [[OUTSIDE]]}
    heads: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        for _ in range(2):
            link, _ = listener.accept()
            try:
                with context.wrap_socket(link, server_side=True) as secured:
                    heads.append(secured.recv(65536))
                    secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            except OSError:
                link.close()

    with closing(socket.create_server((OUTSIDE, 0))) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        port = listener.getsockname()[1]
        assert fetched(f"https://localhost:{port}/a") == b"hi"
        with pytest.raises(Passing, match="CERTIFICATE_VERIFY_FAILED"):
            fetched(f"https://wrong.example:{port}/a")
        thread.join()
    assert asked == ["localhost", "wrong.example"]
    assert f"\r\nhost: localhost:{port}\r\n" in heads[0].decode().lower()
