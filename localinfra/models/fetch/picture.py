"""A picture that a client names by its URL, fetched for it from public addresses alone.

A host's addresses are looked up once, checked, and connected to as they are: its name can't lead
elsewhere between the check and the connection, nor can a redirect, which is checked likewise. No
proxy is asked, as it would look up names by itself; no key or cookie goes along. Blocking.
"""

import contextlib
import functools
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

from localinfra import __version__
from localinfra.addresses import is_public, parse_ip
from localinfra.models.fetch.lookup import addresses_of

MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
PORTS = {"http": 80, "https": 443}
MAX_URL_CHARS = 16 * 1024  # urlsplit keeps those that it has parsed
READ_BYTES = 64 << 10
HEADERS = {
    "User-Agent": f"localinfra/{__version__}",
    "Accept": "image/*",
    "Accept-Encoding": "identity",
    "Connection": "close",
}


class NotFetched(Exception):
    """The message goes on after "the picture at HOST"; it never says which addresses there are."""


class Target(NamedTuple):
    scheme: str
    host: str
    port: int
    path: str  # with its query


def fetch_picture(url: str, most_bytes: int, limit_s: float) -> bytes:
    """The body, whatever it is, of at most so many bytes. Takes at most `limit_s`, and what the
    system takes to look up names. Raises NotFetched."""
    end_s = time.monotonic() + limit_s
    for _ in range(MAX_REDIRECTS + 1):
        target = target_of(url)
        with answer(target, end_s) as response:
            location = response.getheader("Location")
            if response.status in REDIRECTS and location:
                url = followed(target, url, location)
                continue
            if response.status != 200:
                raise NotFetched(f"was not given: status {response.status}")
            return body_of(response, most_bytes)
    raise NotFetched("redirects too often")


def target_of(url: str) -> Target:
    """Raises NotFetched for a URL that isn't one of HTTP with a host, or has a password, or is too
    long."""
    if len(url) > MAX_URL_CHARS:
        raise NotFetched(f"has a URL of more than {MAX_URL_CHARS} characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = SplitResult("", "", "", "", ""), None
    if parts.scheme not in PORTS or not parts.hostname:
        raise NotFetched("has no URL of http or https")
    if parts.username is not None or parts.password is not None:
        raise NotFetched("has a URL with a password, which is sent nowhere")
    path = parts.path or "/"
    if parts.query:
        path += f"?{parts.query}"
    if not path.isascii() or not path.isprintable() or " " in path:
        raise NotFetched("has a URL with characters that must be escaped")
    return Target(parts.scheme, parts.hostname, port or PORTS[parts.scheme], path)


def followed(target: Target, url: str, location: str) -> str:
    """Raises NotFetched for a redirect that drops the encryption; others are checked like URLs."""
    try:
        found = urljoin(url, location)
    except ValueError:
        found = location
    if target.scheme == "https" and not found.startswith("https:"):
        raise NotFetched("redirects to an address without encryption")
    return found


def public_addresses(host: str, port: int) -> list[str]:
    """Raises NotFetched if there is none, or any that is not public."""
    try:
        texts = addresses_of(host, port)
    except (OSError, UnicodeError):
        raise NotFetched("can't be found: its host has no address") from None
    for text in texts:
        address = parse_ip(text)
        if address is None or not is_public(address):
            raise NotFetched("is not fetched: its host is not on the public internet")
    return texts


@contextlib.contextmanager
def answer(target: Target, end_s: float) -> Iterator[http.client.HTTPResponse]:
    """The head of the answer, its body unread. Raises NotFetched, also while the body is read."""
    connection = http.client.HTTPConnection(target.host, target.port)
    try:
        link = connected(target, end_s)
    except OSError:
        raise NotFetched("can't be reached") from None
    # A server that sends a byte now and then never exceeds a limit of single reads. TLS takes the
    # socket over, so what ends it is another handle.
    handle = link.dup()
    cut = threading.Timer(max(0.0, end_s - time.monotonic()), shut, [handle])
    cut.daemon = True
    cut.start()
    try:
        connection.sock = secured(link, target) if target.scheme == "https" else link
        connection.request("GET", target.path, headers=HEADERS)
        yield connection.getresponse()
        if time.monotonic() >= end_s:  # the end of a cut answer may look like any other
            raise NotFetched("takes too long to come")
    except (OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() >= end_s:
            raise NotFetched("takes too long to come") from None
        if isinstance(error, ssl.SSLCertVerificationError):
            raise NotFetched("is not fetched: its host's certificate is not valid") from None
        raise NotFetched("did not come whole: its host broke the connection") from None
    finally:
        cut.cancel()
        connection.close()
        link.close()
        handle.close()


def connected(target: Target, end_s: float) -> socket.socket:
    """To the first address that answers. Raises OSError and NotFetched."""
    trouble = OSError("no address")
    for address in public_addresses(target.host, target.port):
        rest_s = end_s - time.monotonic()
        if rest_s <= 0:
            raise NotFetched("takes too long to come")
        try:
            return socket.create_connection((address, target.port), timeout=rest_s)
        except OSError as error:
            trouble = error
    raise trouble


def secured(link: socket.socket, target: Target) -> socket.socket:
    return certificates().wrap_socket(link, server_hostname=target.host)


@functools.cache
def certificates() -> ssl.SSLContext:
    """Reading the system's holds the interpreter's lock, so they are read once."""
    return ssl.create_default_context()


def shut(link: socket.socket) -> None:
    with contextlib.suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)


def body_of(response: http.client.HTTPResponse, most_bytes: int) -> bytes:
    if (response.length or 0) > most_bytes:
        raise too_large(most_bytes)
    body = bytearray()
    while part := response.read(READ_BYTES):
        body += part
        if len(body) > most_bytes:
            raise too_large(most_bytes)
    if response.length:
        raise NotFetched("did not come whole: its host broke the connection")
    return bytes(body)


def too_large(most_bytes: int) -> NotFetched:
    return NotFetched(f"has more than {most_bytes >> 20} MiB")
