"""Requests to servers that are not trusted."""

import email.utils
import time
from pathlib import Path

import httpx2
import pytest
from fetch.pulling import pulled
from fetch.site import Content, Fault, Site

from localinfra.errors import InvalidRequest, PullFailed
from localinfra.models.fetch.line import parse_retry_after, redirected


@pytest.mark.parametrize(
    ("start", "location"),
    [
        ("https://8.8.8.8/a", "https://1.1.1.1/b"),
        ("https://8.8.8.8/a", "/b?signature=x"),
        ("http://8.8.8.8/a", "https://8.8.8.8/a"),
    ],
)
def test_a_redirect_may_lead_to_another_host(start: str, location: str) -> None:
    url = httpx2.URL(start)
    assert redirected(url, location) == url.join(location)


@pytest.mark.parametrize(
    ("start", "location", "problem"),
    [
        ("https://8.8.8.8/a", "http://1.1.1.1/b", "without encryption"),
        ("http://8.8.8.8/a", "data:text/plain,x", "Only http and https"),
    ],
)
def test_a_redirect_may_not_lead_out_of_the_web_nor_drop_the_encryption(
    start: str, location: str, problem: str
) -> None:
    with pytest.raises(PullFailed, match=problem):
        redirected(httpx2.URL(start), location)


def test_a_server_says_when_to_come_back_in_seconds_or_by_a_date() -> None:
    assert parse_retry_after(" 7 ") == 7
    later = parse_retry_after(email.utils.formatdate(time.time() + 3600, usegmt=True))
    assert later is not None and later > 3000
    assert parse_retry_after(email.utils.formatdate(0, usegmt=True)) == 0
    end, now = (email.utils.formatdate(time.time() + s, usegmt=True) for s in (9e8 + 60, 9e8))
    assert parse_retry_after(end, now) == 60  # whatever the clock of this machine says
    assert [parse_retry_after(text) for text in ("", "soon", "-1", "1e9", "٣")] == [None] * 5


def test_the_hubs_own_limit_says_when_to_come_back(hub: Site) -> None:
    hub.files["/api/models/org/m"] = Content(b"", None)
    hub.faults = [Fault(429, {"RateLimit": '"api";r=0;t=7000'})]
    with pytest.raises(PullFailed, match="asks to wait 7000 s"):
        pulled("hf:org/m")


def test_the_proxy_of_the_environment_is_used(cdn: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"GGUF\3\0\0\0" + b"\1" + bytes(7) + b"\1" + bytes(7)
    cdn.put("http://models.invalid/m.gguf", data)
    monkeypatch.setenv("http_proxy", cdn.url)
    assert pulled("http://models.invalid/m.gguf").read_bytes() == data


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("all_proxy", "socks5://127.0.0.1:1"),
        ("http_proxy", "nonsense://x"),
        ("SSL_CERT_FILE", "/no"),
    ],
)
def test_a_proxy_or_certificate_that_cant_be_used_is_an_error(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr("localinfra.models.fetch.line.certificates", httpx2.create_ssl_context)
    with pytest.raises(PullFailed, match="that the environment names can't be used"):
        pulled("http://models.invalid/m.gguf")


@pytest.mark.parametrize("host", ["a" * 70, "a..b", "-", "é" * 100, "[::g]"])
def test_a_name_that_no_host_can_have_is_an_error(hub: Site, host: str) -> None:
    with pytest.raises((PullFailed, InvalidRequest, ValueError)):
        pulled(f"http://{host}/m.gguf")
    hub.redirects["/api/models/org/m"] = f"http://{host}/"
    with pytest.raises(PullFailed):
        pulled("hf:org/m")


def test_a_host_that_nobody_has_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(PullFailed, match=r"models\.invalid can't be reached \("):
        pulled("http://models.invalid/m.gguf")
