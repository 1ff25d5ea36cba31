"""Which Host and Origin headers are let in, as tables."""

import pytest

from localinfra.api.http.hosts import (
    Authority,
    HostRules,
    OriginRules,
    is_local,
    parse_authority,
)


def authority(host: str) -> Authority:
    found = parse_authority(host)
    assert found
    return found


CONFIGURED = HostRules(["box", "Models.Example.org", "*.lan", "10.1.2.3"])

ALLOWED_HOSTS = [
    "localhost",
    "localhost:8000",
    "LOCALHOST:8000",
    "localhost.",
    "api.localhost",
    "a.b.localhost:1",
    "127.0.0.1",
    "127.0.0.1:8000",
    "127.255.3.4",
    "[::1]",
    "[::1]:8000",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]:8000",
    "192.168.1.5",  # the connection's local address
    "192.168.1.5:80",
    "[::ffff:192.168.1.5]",
    "box:8000",
    "models.example.org",
    "MODELS.example.ORG.:443",
    "printer.lan",
    "a.b.lan:8000",
    "10.1.2.3",
    "host.docker.internal:8000",  # this machine's name in its containers
    "gateway.docker.internal",
    "host.containers.internal:8000",
    "docker.for.mac.host.internal",
    "docker.for.mac.localhost",
    "docker.for.win.host.internal:8000",
    "docker.for.win.localhost",
    "ip6-localhost",  # this machine, in its hosts file
    "ip6-loopback:8000",
    "localhost.localdomain",
    "localhost6.localdomain6",
]

REFUSED_HOSTS = [
    "",
    " ",
    "evil.com",
    "evil.com:8000",
    "localhost.evil.com",
    "localhost-evil.com",
    "notlocalhost",
    ".localhost",
    "127.0.0.1.evil.com",
    "127.0.0.1.nip.io",
    "127.1",  # browsers expand these before they send them
    "2130706433",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "128.0.0.1",
    "192.168.1.6",
    "0.0.0.0",
    "[::]",
    "[::2]",
    "[127.0.0.1]",
    "[localhost]",
    "[::1",
    "::1",
    "[::1]evil.com",
    "[:::1]",
    "localhost@evil.com",
    "evil.com@localhost",
    "localhost/evil",
    "localhost#",
    "localhost?",
    "localhost\\",
    "localhost:8000:80",
    "localhost:80a",
    "localhost:123456",
    "localhost,evil.com",
    "localhost evil.com",
    "localhost\n",
    "localhost..",
    "docker.internal",
    "evil.internal",
    "evil.localdomain",
    "localhost.localdomain.evil.com",
    "docker.for.evil.internal",
    "host.docker.internal.evil.com",
    "x.host.docker.internal",
    "lan",
    "evillan",
    "evil.lan.com",
    "xmodels.example.org",
    "locälhost",
    "127.0.0.\u0661",  # an Arabic digit one
]


@pytest.mark.parametrize("host", ALLOWED_HOSTS)
def test_a_local_or_configured_host_is_answered(host: str) -> None:
    authority = parse_authority(host)
    assert authority is not None and CONFIGURED.allows(authority, "192.168.1.5")


@pytest.mark.parametrize("host", REFUSED_HOSTS)
def test_any_other_host_is_refused(host: str) -> None:
    authority = parse_authority(host)
    assert authority is None or not CONFIGURED.allows(authority, "192.168.1.5")


@pytest.mark.parametrize("arrived_at", [None, "/run/localinfra.sock", "", "127.0.0.1"])
def test_without_a_local_address_only_names_count(arrived_at: str | None) -> None:
    assert not HostRules().allows(authority("192.168.1.5"), arrived_at)
    assert HostRules().allows(authority("localhost"), arrived_at)


def test_the_local_address_may_be_in_any_spelling() -> None:
    """A dual-stack socket reports IPv4 peers as ::ffff:a.b.c.d, a link-local one with its zone."""
    assert HostRules().allows(authority("192.168.1.5"), "::ffff:192.168.1.5")
    assert HostRules().allows(authority("[fe80::1]"), "fe80::1%eth0")


ALLOWED_ORIGINS = [
    "http://localhost",
    "http://localhost:3000",
    "https://localhost:8443",
    "HTTP://LocalHost:3000",
    "http://app.localhost:5173",
    "http://127.0.0.1:5500",
    "http://127.9.9.9",
    "http://[::1]:3000",
    "https://[::1]",
    "http://server.test:8000",  # the same origin as the Host below
    "https://app.example.org",  # configured
    "https://APP.example.org",
    "chrome-extension://abcdef",
]

REFUSED_ORIGINS = [
    "",
    "null",
    "*",
    "http://evil.com",
    "https://evil.com",
    "http://localhost.evil.com",
    "http://evil.com/localhost",
    "http://localhost/",
    "http://localhost@evil.com",
    "http://evil.com@localhost",
    "http://evil.com#localhost",
    "http://127.0.0.1.evil.com",
    "http://0.0.0.0:8000",
    "http://192.168.1.5",
    "http://[::2]",
    "http://",
    "localhost",
    "//localhost",
    "ftp://localhost",
    "file://",
    "file://localhost",
    "chrome-extension://other",
    "moz-extension://localhost",
    "http:localhost",
    "http://server.test",  # another port is another origin
    "http://server.test:8001",
    "http://app.example.org",  # configured for https only
    "https://app.example.org:8443",
    "https://x.app.example.org",
    "http://localhost http://localhost",
]


@pytest.mark.parametrize("origin", ALLOWED_ORIGINS)
def test_local_same_and_configured_origins_may_call(origin: str) -> None:
    rules = OriginRules(["https://app.example.org/", "chrome-extension://abcdef"])
    assert rules.allows(origin, authority("server.test:8000"))


@pytest.mark.parametrize("origin", REFUSED_ORIGINS)
def test_any_other_origin_may_not(origin: str) -> None:
    rules = OriginRules(["https://app.example.org/", "chrome-extension://abcdef"])
    assert not rules.allows(origin, authority("server.test:8000"))


DESKTOP_ORIGINS = [
    "app://obsidian.md",
    "app://-",
    "app://local.app",
    "tauri://localhost",
    "http://tauri.localhost",
    "https://tauri.localhost",
    "vscode-webview://0f3qk2v7c1",
    "vscode-file://vscode-app",
    "capacitor://localhost",
    "ionic://localhost",
    "electron://altair",
    "file://",
]


@pytest.mark.parametrize("origin", DESKTOP_ORIGINS)
def test_desktop_apps_may_call_if_only_this_machine_can(origin: str) -> None:
    rules = OriginRules(takes_desktop_apps=True)
    assert rules.allows(origin, authority("localhost:8000"))
    is_loopbacks = origin.startswith("http")
    assert OriginRules().allows(origin, authority("localhost:8000")) == is_loopbacks


@pytest.mark.parametrize(
    "origin",
    [
        "null",  # a page opened from a file, but also a sandboxed frame of a foreign page
        "https://app",
        "http://obsidian.md",
        "app://evil.com/path",
        "app://a b",
        "file:///home/user/page.html",
        "ipfs://bafy",  # schemes whose pages come from elsewhere
        "ftp://localhost",
        "chrome-extension://abcdef",
        "moz-extension://abcdef",
    ],
)
def test_other_schemes_are_not_desktop_apps(origin: str) -> None:
    rules = OriginRules(takes_desktop_apps=True)
    assert not rules.allows(origin, authority("localhost:8000"))


def test_browser_extensions_may_call_when_listed() -> None:
    host = authority("localhost:8000")
    every = OriginRules(["chrome-extension://*"])
    assert every.allows("chrome-extension://abcdef", host)
    assert not every.allows("moz-extension://abcdef", host)
    assert not OriginRules(["https://*"]).allows("https://evil.com", host)


@pytest.mark.parametrize("origin", ["null", "http://evil.com", "file://"])
def test_a_star_lets_every_page_in(origin: str) -> None:
    assert OriginRules(["*"]).allows(origin, authority("localhost"))


@pytest.mark.parametrize(("scheme", "port"), [("http", "80"), ("https", "443")])
def test_a_missing_port_is_the_schemes_default(scheme: str, port: str) -> None:
    rules = OriginRules()
    assert rules.allows(f"{scheme}://server.test", authority(f"server.test:{port}"))
    assert rules.allows(f"{scheme}://server.test:{port}", authority("server.test"))


def test_names_that_dns_could_point_elsewhere_are_not_loopback() -> None:
    assert is_local("x.localhost") and is_local("127.0.0.2") and is_local("::1")
    assert not is_local("localhost.com") and not is_local("::") and not is_local("")
