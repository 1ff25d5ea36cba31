"""Requests as bytes, whole or damaged, and how they are delivered. Pure."""

from dataclasses import dataclass, replace
from random import Random

Header = tuple[bytes, bytes]
KEY = "fuzz-key"
AUTHORIZED: Header = (b"authorization", b"Bearer " + KEY.encode())
JSON_TYPE: Header = (b"content-type", b"application/json")
BOUNDARY = b"fuzz-boundary"
FORM_TYPE: Header = (b"content-type", b"multipart/form-data; boundary=" + BOUNDARY)


@dataclass(frozen=True)
class HttpRequest:
    method: str
    target: bytes
    headers: tuple[Header, ...]
    body: bytes = b""
    version: bytes = b"HTTP/1.1"

    def head(self, *framing: Header) -> bytes:
        lines = [
            b"%b %b %b" % (self.method.encode("latin-1", "replace"), self.target, self.version)
        ]
        lines += [b"%b: %b" % header for header in (*self.headers, *framing)]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def whole(self) -> bytes:
        has_body = self.body or self.method in ("POST", "PUT")
        framing = [(b"content-length", b"%d" % len(self.body))] if has_body else []
        return self.head(*framing) + self.body


@dataclass(frozen=True)
class Delivery:
    """The bytes to send, in packets, and what is to come back."""

    packets: tuple[bytes, ...]
    how: str = "whole"
    num_answers: int | None = 1  # None: whatever comes, the request is damaged or incomplete
    leaves_after: int | None = None  # closes after so many bytes of the answer
    ends_writing: bool = False  # says so after the last packet
    is_plain: bool = True  # whole, so that the connection can be used again


def whole(request: HttpRequest) -> Delivery:
    return Delivery((request.whole(),))


# --- deliveries -----------------------------------------------------------------------------------


def in_packets(request: HttpRequest, draw: Random) -> Delivery:
    data = request.whole()
    cuts = sorted(draw.randrange(len(data)) for _ in range(draw.choice((1, 2, 5, 20))))
    packets = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return Delivery(tuple(packets), "in packets")


def chunks_of(body: bytes, draw: Random) -> list[bytes]:
    size = draw.choice((1, 7, 100, 4096))
    size = max(size, len(body) // 50)
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    extension = draw.choice((b"", b"", b";a=b"))
    return [b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts]


def chunked(request: HttpRequest, draw: Random) -> Delivery:
    trailer = draw.choice((b"", b"", b"x-trailer: 1\r\n"))
    head = request.head((b"transfer-encoding", b"chunked"))
    return Delivery(
        (head + b"".join(chunks_of(request.body, draw)) + b"0\r\n%b\r\n" % trailer,), "chunked"
    )


def broken_chunks(request: HttpRequest, draw: Random) -> Delivery:
    """That end early, or are none."""
    head = request.head((b"transfer-encoding", b"chunked"))
    parts = chunks_of(request.body, draw)
    kept = parts[: draw.randrange(len(parts) + 1)]
    end = draw.choice(
        (b"", b"zz\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n", b"5\r\nab", b"0\r\n", b"\0")
    )
    return Delivery((head + b"".join(kept) + end,), "broken chunks", None, None, True, False)


def cut(request: HttpRequest, draw: Random) -> Delivery:
    data = request.whole()
    return Delivery(
        (data[: draw.randrange(len(data))],), "cut", None, None, draw.random() < 0.9, False
    )


def leaving(request: HttpRequest, draw: Random) -> Delivery:
    """Before, or in the middle of, the answer."""
    after = draw.choice((0, 0, 1, 100, 400, 2000))
    last = replace(request, headers=(*request.headers, (b"connection", b"close")))
    return Delivery((last.whole(),), "leaving", None, after, False, False)


def pipelined(request: HttpRequest, draw: Random) -> Delivery:
    count = draw.choice((2, 3, 8, 20))
    known = count if count <= 16 else None
    last = replace(request, headers=(*request.headers, (b"connection", b"close")))
    packets = request.whole() * (count - 1) + last.whole()
    return Delivery((packets,), f"{count} pipelined", known, None, False, False)


def expecting(request: HttpRequest, draw: Random) -> Delivery:
    asked = replace(request, headers=(*request.headers, (b"expect", b"100-continue")))
    data = asked.whole()
    at = data.index(b"\r\n\r\n") + 4
    return Delivery((data[:at], data[at:]), "expecting", 1, None, False, False)


def damaged_head(request: HttpRequest, draw: Random) -> Delivery:
    data = bytearray(request.whole())
    end = data.index(b"\r\n\r\n") + 4
    for _ in range(draw.choice((1, 1, 3, 10))):
        at = draw.randrange(min(end, len(data)))
        change = draw.randrange(3)
        if change == 0:
            data[at] = draw.randrange(256)
        elif change == 1:
            del data[at : at + draw.choice((1, 1, 5))]
        else:
            data[at:at] = draw.choice(
                (b"\0", b"\r", b"\n", b"\r\n", b" ", b":", b"\xff", b"x" * 9000)
            )
    return Delivery((bytes(data),), "damaged head", None, None, True, False)


def lying_length(request: HttpRequest, draw: Random) -> Delivery:
    length = draw.choice(
        (
            b"0",
            b"1",
            b"-1",
            b"+5",
            b"5, 5",
            b"1e3",
            b"999999999999999999999",
            b"99999999",
            b"0x10",
            b"",
            b"4",
        )
    )
    framing: list[Header] = [(b"content-length", length)]
    if draw.random() < 0.3:
        framing.append(draw.choice(((b"transfer-encoding", b"chunked"), (b"content-length", b"7"))))
    data = request.head(*framing) + request.body
    return Delivery((data,), "lying length", None, None, True, False)


DELIVERIES = (
    in_packets,
    chunked,
    broken_chunks,
    cut,
    leaving,
    pipelined,
    expecting,
    damaged_head,
    lying_length,
)
