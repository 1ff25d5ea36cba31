"""Requests to servers that are not trusted: redirects, tokens, and answers of bounded size.

Knows HTTP, and nothing of what is fetched.
"""

import contextlib
import email.utils
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Self

import httpcore2
import httpx2

from localinfra import __version__
from localinfra.errors import ModelNotFound, PullFailed, PullRefused, PullStopped
from localinfra.models.fetch.dialer import Dialer, Elsewhere
from localinfra.models.fetch.pace import PACE, Pace, Passing, Patience, brief

MAX_REDIRECTS = 6
REDIRECTS = (301, 302, 303, 307, 308)
PASSING = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524)
LIMIT_ENDS = re.compile(r";\s*t=(\d{1,9})")  # seconds; the hub sends this with a 429
HEADERS = {"User-Agent": f"localinfra/{__version__}", "Accept-Encoding": "identity"}


class Line:
    """Clients with one token, which goes to one origin alone. Used by several threads.

    There is one for the public internet and one for private networks, whose servers trust whoever
    can reach them: a redirect leads there from a private network alone."""

    def __init__(self, token: str | None = None, home: str = "", pace: Pace = PACE) -> None:
        """`home`: a URL of the origin that may see the token."""
        self.pace = pace
        self._token = token
        self._home = httpx2.URL(home)
        self._open: set[httpx2.Response] = set()
        try:
            self._public = client(pace, Dialer(private=False))
            self._private = client(pace, Dialer(private=True))
        except (ImportError, ValueError, OSError) as error:
            raise PullFailed(
                f"The proxies or certificates that the environment names can't be used: {error}"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._public.close()
        self._private.close()

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[httpx2.Response]:
        """The answer after redirects, whatever its status, its body unread.

        Raises Passing for a line that breaks, also while the body is read, and PullFailed for a
        redirect to where we don't go.
        """
        response = None
        try:
            response = self._follow(checked(url), dict(headers or {}))
            self._open.add(response)
            yield response
        except httpx2.TransportError as error:
            raise Passing(f"{httpx2.URL(url).host} {trouble(error)}") from error
        except UnicodeError as error:  # of a name that the socket layer can't encode
            raise PullFailed(f"Nothing can have this name: {error}.") from None
        finally:
            if response is not None:
                self._open.discard(response)
                response.close()

    def cut(self) -> None:
        """Ends the answers that other threads wait for."""
        for response in self._open.copy():
            found = response.extensions["network_stream"].get_extra_info("socket")
            with contextlib.suppress(OSError):
                if found is not None:
                    found.shutdown(socket.SHUT_RDWR)

    def _follow(self, url: httpx2.URL, headers: dict[str, str]) -> httpx2.Response:
        may_be_private, before = True, url  # what the user names may be anywhere
        for _ in range(MAX_REDIRECTS + 1):
            may_see = self._token and origin(url) == origin(self._home)
            login = {"Authorization": f"Bearer {self._token}"} if may_see else {}
            request = self._public.build_request("GET", url, headers=headers | login)
            try:
                response = self._public.send(request, stream=True)  # proxies look up names
                is_private = False
            except Elsewhere:
                if not may_be_private:
                    raise PullFailed(
                        f"{before.host} redirects into a private network: {url.host}."
                    ) from None
                response = self._send_privately(request)
                is_private = True
            if response.status_code not in REDIRECTS or "Location" not in response.headers:
                return response
            response.close()
            may_be_private, before = is_private, url
            url = redirected(url, response.headers["Location"])
        raise PullFailed(f"{url.host} redirects in a circle.")

    def _send_privately(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return self._private.send(request, stream=True)
        except Elsewhere:  # its name server has just said that it is not
            raise Passing(f"{request.url.host} is now in one network, now in another") from None

    def read(
        self, url: str, limit: int, stop: threading.Event, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """The whole body of at most `limit` bytes, after a few attempts."""
        patience = Patience(brief(self.pace), stop)
        while True:
            try:
                return self._read_once(url, limit, stop, headers)
            except Passing as fault:
                patience.wait(fault)

    def _read_once(
        self, url: str, limit: int, stop: threading.Event, headers: Mapping[str, str] | None
    ) -> bytes:
        started, body = time.monotonic(), bytearray()
        with self.get(url, headers) as response:
            check(response)
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > limit:
                    raise PullFailed(f"{response.url.host} answers with more than {limit:,} bytes.")
                if time.monotonic() - started > self.pace.answer_s:
                    raise Passing(f"{response.url.host} answers too slowly")
                if stop.is_set():
                    raise PullStopped("Stopped.")
        return bytes(body)


def client(pace: Pace, dialer: Dialer) -> httpx2.Client:
    """Goes by the proxies of the usual variables, and else by `dialer`."""
    found = httpx2.Client(
        verify=certificates(),
        headers=HEADERS,
        timeout=httpx2.Timeout(pace.read_s, connect=pace.connect_s, pool=None),
        limits=httpx2.Limits(max_connections=2 * pace.connections),
    )
    # httpx2 takes a transport of ours in place of the proxies only, and no backend.
    direct = found._transport
    assert isinstance(direct, httpx2.HTTPTransport)
    assert isinstance(direct._pool, httpcore2.ConnectionPool) and direct._pool._network_backend
    direct._pool._network_backend = dialer
    return found


def trouble(error: httpx2.TransportError) -> str:
    match error:
        case httpx2.ConnectError():
            return f"can't be reached ({error})"
        case httpx2.TimeoutException():
            return "does not answer"
    return f"broke the line ({type(error).__name__})"


@cache
def certificates() -> ssl.SSLContext:
    """Reads the usual variables too; takes a fifth of a second."""
    return httpx2.create_ssl_context()


def checked(url: str) -> httpx2.URL:
    """Raises PullFailed unless it is a URL of HTTP with a host, and without a password."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        parsed = httpx2.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        raise PullFailed(f"Only http and https are fetched, not {url[:200]!r}.")
    return parsed


def origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, port


def redirected(url: httpx2.URL, location: str) -> httpx2.URL:
    """Raises PullFailed for a redirect that leaves HTTP or drops its encryption."""
    try:
        joined = str(url.join(location))
    except httpx2.InvalidURL:
        joined = location
    target = checked(joined)
    if url.scheme == "https" and target.scheme == "http":
        raise PullFailed(f"{url.host} redirects to an address without encryption: {target.host}.")
    return target


def check(response: httpx2.Response) -> None:
    """Raises what a status of 400 and above means."""
    status, host = response.status_code, response.url.host
    if status < 400:
        return
    if status in PASSING:
        headers = response.headers
        retry_after_s = parse_retry_after(headers.get("Retry-After", ""), headers.get("Date", ""))
        if retry_after_s is None and (
            rest := LIMIT_ENDS.search(response.headers.get("RateLimit", ""))
        ):
            retry_after_s = float(rest[1])
        raise Passing(f"{host} answers with status {status}", retry_after_s)
    if status in (401, 403):
        raise PullRefused(f"{host} refuses this ({status}).")
    if status in (404, 410):
        raise ModelNotFound(f"{host} has nothing at {response.url.path}.", "model")
    raise PullFailed(f"{host} answers with status {status}.")


def parse_retry_after(text: str, now: str = "") -> float | None:
    """Seconds, given as such or as a date. `now`: the server's own date, as this machine's clock
    may be wrong."""
    if text.strip().isascii() and text.strip().isdigit():
        return float(text.strip()[:9])
    try:
        until_s = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    try:
        now_s = email.utils.parsedate_to_datetime(now).timestamp()
    except (ValueError, OverflowError):
        now_s = time.time()
    return max(0.0, until_s - now_s)
