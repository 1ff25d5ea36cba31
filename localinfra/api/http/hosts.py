"""Which Host and Origin headers belong to this machine's own users: plain text in, a verdict out.

A page on the web can't forge these two headers, so they tell a visitor's script (DNS rebinding, a
form posted from elsewhere) from a local client. Knows no settings file, no key, no ASGI.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from localinfra.addresses import is_loopback, parse_ip

# Strict, so that user@, paths, spaces and commas are refused rather than interpreted.
AUTHORITY = re.compile(
    r"(?P<name>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\])(?::(?P<port>\d{0,5}))?",
    re.IGNORECASE | re.ASCII,
)
DESKTOP_PAGE = re.compile(r"[a-z0-9_.:-]{0,255}/?", re.ASCII)  # file:// has nothing there
DEFAULT_PORTS = {"http": "80", "https": "443"}
# What a system's table of hosts calls loopback, and what containers and virtual machines call the
# machine they run on. `.localdomain` and `.internal` are nobody's on the web; with Docker Desktop
# such requests arrive on loopback.
HOST_MACHINE = frozenset(
    {
        "localhost.localdomain",
        "localhost4",
        "localhost4.localdomain4",
        "localhost6",
        "localhost6.localdomain6",
        "ip6-localhost",
        "ip6-loopback",
        "docker.for.mac.host.internal",
        "docker.for.win.host.internal",
        "host.docker.internal",
        "gateway.docker.internal",
        "kubernetes.docker.internal",
        "host.containers.internal",
        "host.lima.internal",
        "host.orb.internal",
        "host.minikube.internal",
        "host.k3d.internal",
        "host.rancher-desktop.internal",
    }
)
# Pages that programs installed here bring with them: no browser loads such a page from the web.
# A page opened from disk is not among them if it says `null`, as frames of foreign pages do too.
DESKTOP_SCHEMES = frozenset(
    {
        "app",
        "capacitor",
        "electron",
        "file",
        "ionic",
        "obsidian",
        "tauri",
        "vscode-file",
        "vscode-webview",
        "wails",
    }
)


class Authority(NamedTuple):
    """A host from a header: lower case, no brackets, no closing dot; port "" if not given."""

    name: str
    port: str


def parse_authority(text: str) -> Authority | None:
    """Reads `host[:port]`; None for anything else."""
    match = AUTHORITY.fullmatch(text)
    if match is None:
        return None
    name = match["name"].lower().removesuffix(".").strip("[]")
    if text.startswith("[") and (":" not in name or parse_ip(name) is None):
        return None
    return Authority(name, match["port"] or "")


def is_local(name: str) -> bool:
    """Whether no DNS server can point it elsewhere: localhost, *.localhost, 127/8, ::1."""
    return name == "localhost" or name.endswith(".localhost") or is_loopback(name)


class HostRules:
    """The names this server answers to."""

    def __init__(self, allowed_hosts: Iterable[str] = ()):
        """`allowed_hosts`: exact names or IP literals; `*.lan` allows every name below `lan`."""
        names = [name.lower().strip("[]").removesuffix(".") for name in allowed_hosts]
        self.names = frozenset(name for name in names if not name.startswith("*."))
        self.suffixes = tuple(name[1:] for name in names if name.startswith("*."))

    def allows(self, host: Authority, arrived_at: str | None) -> bool:
        """`arrived_at` is the local address of the connection: who typed it can't have been
        rebound to it. The port is not looked at, so tunnels and containers work."""
        if is_local(host.name) or host.name in HOST_MACHINE:
            return True
        if host.name in self.names or host.name.endswith(self.suffixes):
            return True
        address = parse_ip(host.name)
        return address is not None and address == parse_ip(arrived_at or "")


class OriginRules:
    """The web pages whose scripts may use this server."""

    def __init__(self, allowed_origins: Iterable[str] = (), takes_desktop_apps: bool = False):
        """`allowed_origins`: `scheme://host[:port]` as browsers send it, `*` for every page, or
        `chrome-extension://*` for all of a scheme other than http and https."""
        self.takes_desktop_apps = takes_desktop_apps
        self.origins = frozenset(origin.lower().removesuffix("/") for origin in allowed_origins)

    @property
    def allows_all(self) -> bool:
        return "*" in self.origins

    def allows(self, origin: str, host: Authority) -> bool:
        """True for configured, loopback and same-origin pages, and for desktop apps' where they are
        taken; `null` is none of these."""
        if self.allows_all or origin.lower() in self.origins:
            return True
        scheme, _, rest = origin.lower().partition("://")
        if f"{scheme}://*" in self.origins and scheme not in DEFAULT_PORTS:
            return True
        if scheme in DESKTOP_SCHEMES:
            return self.takes_desktop_apps and DESKTOP_PAGE.fullmatch(rest) is not None
        page = parse_authority(rest)
        if page is None or scheme not in DEFAULT_PORTS:
            return False
        default = DEFAULT_PORTS[scheme]
        same = page.name == host.name and (page.port or default) == (host.port or default)
        return same or is_local(page.name)
