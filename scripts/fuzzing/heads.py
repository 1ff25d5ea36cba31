"""Heads of requests with something odd: other methods, targets, versions and headers. Pure."""

from dataclasses import replace
from random import Random

from fuzzing.wire import Header, HttpRequest

STRANGE_HEADERS: tuple[Header, ...] = (
    *(
        (b"content-type", kind)
        for kind in (
            b"",
            b"text/plain",
            b"application/json; charset=utf-16",
            b"application/x-www-form-urlencoded",
            b"multipart/form-data",
            b"multipart/form-data; boundary=",
            b"application/jsonp",
            b"application/vnd.api+json",
            b"\xff",
            b"application/json, text/html",
        )
    ),
    *((b"content-encoding", kind) for kind in (b"gzip", b"br", b"identity", b"x")),
    *(
        (b"accept", kind)
        for kind in (
            b"text/event-stream",
            b"application/xml",
            b"*/*",
            b"",
            b"application/json;q=0",
            b"image/avif",
        )
    ),
    *(
        (b"authorization", kind)
        for kind in (
            b"",
            b"Bearer",
            b"Bearer wrong",
            b"Basic Zjpm",
            b"bearer  fuzz-key",
            b"Bearer \xff",
            b"Bearer " + b"k" * 5000,
        )
    ),
    *(
        (b"x-request-id", kind)
        for kind in (b"", b"fuzz-1", b"\xff\xfe", b"a" * 3000, b"../x", b"a b", b"<script>")
    ),
    *(
        (b"host", kind)
        for kind in (b"", b"evil.example", b"localhost:99999", b"[::1", b"127.0.0.1", b"\xff")
    ),
    *(
        (b"origin", kind)
        for kind in (b"null", b"https://evil.example", b"http://localhost:1", b"\xff")
    ),
    *((b"connection", kind) for kind in (b"close", b"keep-alive, upgrade", b"x")),
    *((b"upgrade", kind) for kind in (b"websocket", b"h2c")),
    *(
        (b"x-api-key", b"fuzz-key"),
        (b"x-api-key", b"\xff"),
        (b"anthropic-version", b"2023-06-01"),
        (b"anthropic-beta", b"a,b"),
    ),
    *(
        (b"range", b"bytes=0-"),
        (b"if-none-match", b"*"),
        (b"if-modified-since", b"x"),
        (b"accept-encoding", b"gzip, br"),
    ),
    *(
        (b"cookie", b"a=b"),
        (b"te", b"trailers"),
        (b"sec-fetch-site", b"cross-site"),
        (b"x-forwarded-for", b"1.2.3.4"),
    ),
    *(
        (b"last-event-id", b"7"),
        (b"x-" + b"n" * 200, b"v"),
        (b"x-long", b"v" * 20_000),
        (b"access-control-request-method", b"POST"),
    ),
)
METHODS = (
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "get",
    "FOO",
)
STRANGE_TARGETS = (
    *(
        b"/%00",
        b"/%2F..",
        b"/../../etc/passwd",
        b"/v1/%2e%2e/%2e%2e/x",
        b"/" + b"a" * 3000,
        b"/" + b"a/" * 4000,
        b"*",
        b"//",
        b"/v1//chat///completions",
    ),
    *(
        b"http://localhost/health",
        b"http://evil.example/health",
        b"/v1/models/%ff%fe",
        b"/v1/models/" + b"%F0%9F%98%80" * 20,
        b"/v1/models/a%0D%0Ab",
    ),
    *(
        b"/?" + b"a=b&" * 500,
        b"/health?\xff",
        b"/health#x",
        b"/v1/chat/completions/",
        b"/v1/v1/v1/models",
        b"/docs",
        b"/openapi.json",
        b"/app/x/../main.js",
    ),
    *(
        b"/v1/responses/%00",
        b"/v1/chats/%00",
        b"/v1/chats?search=%00%27%22*",
        b"/v1/chats?after=%FF",
        b"/v1/images/files/..%2f..%2fx",
        b"/v1/inference/",
        b"/v1/engines//completions",
    ),
    *(
        b"/favicon.ico",
        b"/robots.txt",
        b"/v1/audio/speech",
        b"/api/create",
        b"/\xe2\x98\x83",
        b"/v1/models?all=\xff",
        b"/v1/models/" + b"x" * 17_000,
    ),
)


def odd_headers(request: HttpRequest, draw: Random) -> HttpRequest:
    headers = list(request.headers)
    for _ in range(draw.choice((1, 1, 2, 4))):
        name, value = draw.choice(STRANGE_HEADERS)
        if draw.random() < 0.8:
            headers = [one for one in headers if one[0] != name]
        headers.append((name, value))
    if draw.random() < 0.05:
        headers += [(b"x-%d" % at, b"v") for at in range(draw.choice((50, 120)))]
    return replace(request, headers=tuple(headers))


def odd_method(request: HttpRequest, draw: Random) -> HttpRequest:
    return replace(request, method=draw.choice(METHODS))


def odd_target(request: HttpRequest, draw: Random) -> HttpRequest:
    if draw.random() < 0.6:
        return replace(request, target=draw.choice(STRANGE_TARGETS))
    target = request.target
    at = draw.randrange(1, len(target) + 1)
    piece = draw.choice(
        (
            b"/",
            b"%2F",
            b"%00",
            b"..",
            b"%",
            b"%zz",
            b"?",
            b"#",
            b"%ff",
            b"{}",
            b";",
            b"\\",
            b"+",
            b"%0A",
        )
    )
    return replace(request, target=target[:at] + piece + target[at + draw.randrange(3) :])


def odd_version(request: HttpRequest, draw: Random) -> HttpRequest:
    version = draw.choice(
        (b"HTTP/1.0", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.7", b"FTP/1.1", b"")
    )
    return replace(request, version=version)
