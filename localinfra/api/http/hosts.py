"""Which Host and Origin headers are allowed. Works on plain text.

Web pages can't forge these two headers, so they tell a foreign page's script (DNS rebinding, a
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
DESKTOP_PAGE = re.compile(r"[a-z0-9_.:-]{0,255}/?", re.ASCII)  # empty in file://
DEFAULT_PORTS = {"http": "80", "https": "443"}
# Names for loopback in hosts files, and for the host machine in containers and virtual machines.
# `.localdomain` and `.internal` do not exist in public DNS. Docker Desktop delivers such requests
# on loopback.
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
# Origins of pages in desktop apps: browsers load no such page from the web. A page opened from disk
# that sends `null` is refused, since frames of foreign pages send that too.
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
    """A host from a header: lower case, no brackets, no final dot; port "" if not given."""

    name: str
    port: str


def parse_authority(text: str) -> Authority | None:
    """Parses `host[:port]`; None for anything else."""
    match = AUTHORITY.fullmatch(text)
    if match is None:
        return None
    name = match["name"].lower().removesuffix(".").strip("[]")
    if text.startswith("[") and (":" not in name or parse_ip(name) is None):
        return None
    return Authority(name, match["port"] or "")


def is_local(name: str) -> bool:
    """Whether the name is always this machine, whatever DNS says: localhost, *.localhost, 127/8,
    ::1."""
    return name == "localhost" or name.endswith(".localhost") or is_loopback(name)


class HostRules:
    """The names this server answers to."""

    def __init__(self, allowed_hosts: Iterable[str] = ()):
        """`allowed_hosts`: exact names or IP literals; `*.lan` allows every name below `lan`."""
        names = [name.lower().strip("[]").removesuffix(".") for name in allowed_hosts]
        self.names = frozenset(name for name in names if not name.startswith("*."))
        self.suffixes = tuple(name[1:] for name in names if name.startswith("*."))

    def allows(self, host: Authority, local_address: str | None) -> bool:
        """`local_address` is the connection's: a literal address can't be rebound. The port is not
        checked, so tunnels and containers work."""
        if is_local(host.name) or host.name in HOST_MACHINE:
            return True
        if host.name in self.names or host.name.endswith(self.suffixes):
            return True
        address = parse_ip(host.name)
        return address is not None and address == parse_ip(local_address or "")


class OriginRules:
    """The web pages whose scripts may use this server."""

    def __init__(self, allowed_origins: Iterable[str] = (), takes_desktop_apps: bool = False):
        """`allowed_origins`: `scheme://host[:port]` as browsers send it, `*` for every page, or
        `chrome-extension://*` for every page of a scheme other than http and https."""
        self.takes_desktop_apps = takes_desktop_apps
        self.origins = frozenset(origin.lower().removesuffix("/") for origin in allowed_origins)

    @property
    def allows_all(self) -> bool:
        return "*" in self.origins

    def allows(self, origin: str, host: Authority, *, is_encrypted: bool = False) -> bool:
        """True for configured, loopback and same-origin pages, and for desktop apps if
        `takes_desktop_apps`; never for `null`, unless it is configured. `is_encrypted`: whether the
        request came by TLS."""
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
        return is_same_origin(origin, host, is_encrypted) or is_local(page.name)


def is_same_origin(origin: str, host: Authority, is_encrypted: bool) -> bool:
    """Whether the page comes from the host that the request is for. Behind a proxy, the request of
    an encrypted page may come without TLS; one by TLS is never a plain page's."""
    scheme, _, rest = origin.lower().partition("://")
    if is_encrypted and scheme != "https":
        return False  # whoever changes plain pages on their way would have access
    page, default = parse_authority(rest), DEFAULT_PORTS.get(scheme)
    if page is None or default is None:
        return False
    return page.name == host.name and (page.port or default) == (host.port or default)
