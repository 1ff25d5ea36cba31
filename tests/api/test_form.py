"""Multipart bodies: their parts, how a field's text is read, and how they are refused."""

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import msgspec
import pytest
from asgi import scope_of
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from localinfra.api.http.bodies import BodyLimits
from localinfra.api.http.body import Decoded, decode
from localinfra.api.http.form import (
    MAX_HEADS_BYTES,
    MAX_PARTS,
    FormPart,
    json_of,
    parse_form,
    read_body_or_form,
    read_form,
)
from localinfra.errors import (
    BodyTooLarge,
    InvalidRequest,
    RequestTimeout,
    UnsupportedMediaType,
)

BOUNDARY = b"xYzZY"
FORM = ("content-type", "multipart/form-data; boundary=xYzZY")


class Body(msgspec.Struct, frozen=True, kw_only=True):
    prompt: str
    n: int = 1
    scale: float = 1.0
    stream: bool = False
    stop: str | list[str] = []
    inputs: list[str | int] = []
    image: str | list[str] | None = None
    options: dict[str, Any] = {}


def form(*parts: tuple[str, str | bytes]) -> bytes:
    """A body of these parts, each as its headers (a bare word is its name) and data."""
    written = b""
    for headers, data in parts:
        if ":" not in headers:
            headers = f'Content-Disposition: form-data; name="{headers}"'
        data = data.encode() if isinstance(data, str) else data
        written += b"--%b\r\n%b\r\n\r\n%b\r\n" % (BOUNDARY, headers.encode(), data)
    return written + b"--%b--\r\n" % BOUNDARY


def named(name: str, *more: str, filename: str | None = None) -> str:
    """A part's headers."""
    file = "" if filename is None else f'; filename="{filename}"'
    return "\r\n".join([f'Content-Disposition: form-data; name="{name}"{file}', *more])


def read(*parts: tuple[str, str | bytes]) -> Body:
    return decode(json_of(parse_form(form(*parts), BOUNDARY), Body, ("image",)), Body).value


def refused(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        decode(json_of(parse_form(body, BOUNDARY), Body, ("image",)), Body)
    return caught.value


# How a field's text is read.


def test_plain_text_is_read_as_text_as_curl_sends_it() -> None:
    body = read(("prompt", "Hello, \r\n--world"), ("n", "4"), ("stream", "true"), ("stop", "END"))
    assert body == Body(prompt="Hello, \r\n--world", n=4, stream=True, stop="END")


def test_fields_in_json_are_read_as_deepinfras_client_sends_them() -> None:
    sent = {
        "prompt": 'Hi "there"\nx',
        "n": 4,
        "scale": 0.5,
        "stream": True,
        "stop": ["a", "b"],
        "options": {"a": [1, None]},
    }
    body = read(*((name, json.dumps(value)) for name, value in sent.items()))
    assert msgspec.to_builtins(body) == {"inputs": [], "image": None, **sent}


@pytest.mark.parametrize(
    "text", ["4", "[1] Hi", "[" * 300, '["a"]', "null", "true", "{}", "", '"a" or "b"']
)
def test_text_that_is_not_json_of_the_fields_type_stays_text(text: str) -> None:
    assert read(("prompt", text)).prompt == text


def test_a_field_sent_more_than_once_is_a_list() -> None:
    assert read(("prompt", "x"), ("stop", "a"), ("stop", '"b"'), ("stop", "5")).stop == [
        "a",
        "b",
        "5",
    ]
    assert read(("prompt", "x"), ("inputs[]", "a")).inputs == ["a"]


def test_null_counts_as_absent_and_unknown_fields_are_reported() -> None:
    body = form(("prompt", "x"), ("n", "null"), ("size", "1"), (named("f", filename="a"), b"\xff"))
    decoded = decode(json_of(parse_form(body, BOUNDARY), Body, ()), Body)
    assert decoded.value == Body(prompt="x")
    assert decoded.headers == {"x-localinfra-ignored": "size, f"}


@pytest.mark.parametrize(
    ("field", "text", "says"),
    [
        ("n", "four", "expected `int`, got `str`"),
        ("n", "4.5", "expected `int`, got `float`"),
        ("n", "4 apples", "expected `int`, got `str`"),
        ("stream", "yes", "expected `bool`, got `str`"),
        ("options", "[" * 100_000, "expected `object`, got `str`"),
        ("options", '{"a":' * 300 + "1" + "}" * 300, "expected `object`, got `str`"),
        ("inputs", "a", "expected `array`, got `str`"),
        ("prompt", b"\xff\xfe", "not valid UTF-8 text"),
    ],
)
def test_a_wrong_value_is_reported(field: str, text: str | bytes, says: str) -> None:
    error = refused(form(("prompt", "x"), (field, text)))
    assert error.param == field and says in error.message


# Files.


@pytest.mark.parametrize(
    ("headers", "url"),
    [
        (named("image", filename="cat.png"), "data:application/octet-stream;base64,AP8="),
        (
            named("image", "Content-Type: image/png", filename="cat.png"),
            "data:image/png;base64,AP8=",
        ),
        (
            named("image", "Content-Type: application/octet-stream"),  # DeepInfra's client
            "data:application/octet-stream;base64,AP8=",
        ),
    ],
)
def test_a_file_becomes_the_data_url_that_json_would_carry(headers: str, url: str) -> None:
    assert read(("prompt", "x"), (headers, b"\0\xff")).image == url
    assert read(("prompt", "x"), (headers, b"\0\xff"), (headers, b"")).image == [
        url,
        url.replace("AP8=", ""),
    ]


def test_a_part_without_a_chosen_file_is_ignored() -> None:
    """Browsers send an empty part then."""
    nothing = named("image", "Content-Type: application/octet-stream", filename="")
    assert read(("prompt", "x"), (nothing, b"")) == read(("prompt", "x"))


def test_an_image_may_be_a_data_url_already() -> None:
    assert read(("prompt", "x"), ("image", "data:image/png;base64,AP8=")).image == (
        "data:image/png;base64,AP8="
    )


def test_a_text_file_is_text_and_a_binary_file_is_not() -> None:
    text = named("prompt", "Content-Type: text/plain; charset=utf-8", filename="prompt.txt")
    assert read((text, "Grüße")).prompt == "Grüße"
    error = refused(form((named("prompt", filename="prompt"), "Hello")))
    assert error.param == "prompt" and "takes text" in error.message


def test_parts_are_read_unchanged() -> None:
    """For routes that use the bytes: /v1/images/edits."""
    png = named("image[]", "content-type: Image/PNG; x=y", filename='a \\"b\\" ü.png')
    parts = parse_form(form((png, b"\r\n\r\n\0--"), ("prompt", "x")), BOUNDARY)
    assert parts == [
        FormPart("image[]", b"\r\n\r\n\0--", "image/png", 'a "b" ü.png'),
        FormPart("prompt", b"x"),
    ]
    assert parts[0].is_file and not parts[1].is_file and parts[1].text == "x"


def test_data_may_contain_what_resembles_the_boundary() -> None:
    for data in (b"\r\n--xYzZ", b"\r\n--xYzZYx", b"--xYzZY\r\n", b"\r\n\r\n--xYzZY-x", b"\r\r\n\n"):
        assert parse_form(form(("a", data)), BOUNDARY) == [FormPart("a", data)]


def test_blanks_may_follow_a_boundary() -> None:
    body = form(("a", "x"), ("b", "y")).replace(b"xYzZY\r\n", b"xYzZY \t \r\n")
    assert parse_form(body, BOUNDARY) == [FormPart("a", b"x"), FormPart("b", b"y")]


def lines_of(work: Callable[[], None]) -> int:
    """The number of lines of Python that run, counted by a trace function."""
    num_lines = 0

    def count(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal num_lines
        num_lines += 1
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(before)
    return num_lines


FLOOD = 4 << 20
HEAD = b'--xYzZY\r\nContent-Disposition: form-data; name="a"\r\n'


@pytest.mark.parametrize(
    "body",
    [
        HEAD + b"\r\nx\r\n--xYzZY" + b" " * FLOOD + b"\r\n",
        HEAD + b"\r\nx\r\n--xYzZY" + b"\t" * FLOOD + HEAD[7:] + b"\r\nx\r\n--xYzZY--",
        b"--xYzZY" + b" " * FLOOD + HEAD[7:] + b"\r\nx\r\n--xYzZY--",
        b"\r\n" * FLOOD + HEAD + b"\r\nx\r\n--xYzZY--",
        HEAD + b"\r\n" + b"\r\n--xYzZ" * (FLOOD // 8) + b"\r\n--xYzZY--",
        HEAD + b"\r\n" + b"\r" * FLOOD + b"\r\n--xYzZY--",
        HEAD + b"X:" + b" " * FLOOD + b"\r\n\r\nx\r\n--xYzZY--",
        (HEAD + (b"X:" + b" " * 4000 + b"\r\n") * 6 + b"\r\nx\r\n") * 40 + b"--xYzZY--",
        (HEAD[:-2] + b";" * 4000 + b"\r\n\r\nx\r\n") * MAX_PARTS + b"--xYzZY--",
        HEAD + b"\r\nx\r\n--xYzZY--" + b"\r\n--xYzZY\r\n" * (FLOOD // 11),
    ],
    ids=[
        *("blanks", "tabs", "first blanks", "line ends", "near boundaries", "returns"),
        *("header blanks", "many header blanks", "parameters", "epilogue"),
    ],
)
def test_a_form_is_not_read_byte_by_byte(body: bytes) -> None:
    """Except the headers, which are short."""

    def parse() -> None:
        with contextlib.suppress(InvalidRequest):
            parse_form(body, BOUNDARY)

    assert lines_of(parse) <= 20 * MAX_HEADS_BYTES < FLOOD


@pytest.mark.parametrize("name", ["application/json", FORM[1]])
def test_only_the_beginning_of_a_long_content_type_is_read(name: str) -> None:
    long = [("content-type", name + ";" * 60_000)]
    body = HELLO if name == FORM[1] else b'{"prompt": "Hello"}'

    def read() -> None:
        assert receive([body], long, SMALL).value == Body(prompt="Hello")

    assert lines_of(read) < 5 * 60_000


# Refusals, and how much of the body is read.


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "the closing boundary"),
        (form(("prompt", "x"))[:-6], "the closing boundary"),
        (b"--xYzZY\r\n", "the closing boundary"),
        (form(("prompt", "x")).replace(BOUNDARY, b"other"), "boundary given in Content-Type"),
        (b'{"prompt": "x"}', "boundary given in Content-Type"),
        (form(("X-Header: a", "x")), "has no name"),
        (form(("Content-Disposition: form-data", "x")), "has no name"),
        (form(('Content-Disposition: attachment; name="a"', "x")), "has no name"),
        (form(("Bad Header: a", "x")), "invalid character"),
        (form((named("a", "X: " + "y" * 5000), "x")), "header is longer than"),
        (form((named("a", *["X: y"] * 8), "x")), "more than 8 headers"),
        (form((named("a", "Content-Transfer-Encoding: base64"), "eA==")), "the plain bytes"),
        (form(*[("a", "x")] * (MAX_PARTS + 1)), f"at most {MAX_PARTS} parts"),
        (form(("a", b"\r\n--xYzZY." * 10_000)), f"at most {MAX_PARTS} parts"),
        (form(), "`prompt` is required"),
    ],
)
def test_a_broken_form_says_what_is_wrong(body: bytes, says: str) -> None:
    assert says in refused(body).message


def test_as_many_parts_as_allowed_are_read() -> None:
    assert len(parse_form(form(*[("a", "x")] * MAX_PARTS), BOUNDARY)) == MAX_PARTS


def receive(
    chunks: list[bytes], headers: list[tuple[str, str]], limits: BodyLimits, *, pause_s: float = 0
) -> Decoded[Body]:
    queue = list(chunks)

    async def next_chunk() -> Message:
        await asyncio.sleep(pause_s)
        return {"type": "http.request", "body": queue.pop(0), "more_body": bool(queue)}

    async def run() -> Decoded[Body]:
        request = Request(scope_of("POST", headers=headers), next_chunk)
        return await read_body_or_form(request, Body, limits)

    return asyncio.run(run())


SMALL = BodyLimits(max_bytes=200, timeout_s=0.2)
HELLO = form(("prompt", "Hello"))


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=xYzZY",
        'Multipart/Form-Data;charset=utf-8;boundary="xYzZY"',
    ],
)
def test_a_form_may_come_in_pieces_of_any_size(size: int, content_type: str) -> None:
    pieces = [HELLO[at : at + size] for at in range(0, len(HELLO), size)]
    read = receive(pieces, [("content-type", content_type)], SMALL)
    assert read.value == Body(prompt="Hello")


def test_json_is_read_by_the_same_function() -> None:
    json_type = ("content-type", "application/json")
    assert receive([b'{"prompt": "x"}'], [json_type], SMALL).value == Body(prompt="x")
    with pytest.raises(UnsupportedMediaType, match="application/json"):
        receive([], [("content-type", "application/x-www-form-urlencoded")], SMALL)


def test_a_form_has_the_limits_of_any_body() -> None:
    with pytest.raises(BodyTooLarge):
        receive([form(("prompt", "x" * 200))], [FORM], SMALL)
    with pytest.raises(RequestTimeout):
        receive([bytes([byte]) for byte in HELLO], [FORM], SMALL, pause_s=0.05)
    with pytest.raises(UnsupportedMediaType, match="compressed"):
        receive([], [FORM, ("content-encoding", "gzip")], SMALL)


@pytest.mark.parametrize("boundary", ["", "; boundary=", "; boundary=" + "x" * 71])
def test_a_form_needs_a_boundary(boundary: str) -> None:
    with pytest.raises(InvalidRequest, match="boundary of 1 to 70"):
        receive([], [("content-type", "multipart/form-data" + boundary)], SMALL)


def test_a_route_that_takes_only_forms_refuses_json() -> None:
    async def run() -> None:
        scope = scope_of("POST", headers=[("content-type", "application/json")])
        await read_form(Request(scope), SMALL)

    with pytest.raises(UnsupportedMediaType, match="multipart/form-data"):
        asyncio.run(run())


SAMPLE = form(
    ("prompt", '"a"'),
    ("n", "2"),
    ("stop", "x"),
    ("stop", "y"),
    (named("image", "Content-Type: image/png", filename="a"), b"\0\xff"),
)
MUTATION = st.tuples(st.integers(0, len(SAMPLE)), st.integers(0, 6), st.binary(max_size=6))


@settings(max_examples=500, deadline=None)
@given(st.lists(MUTATION, max_size=5))
def test_a_damaged_form_is_answered(mutations: list[tuple[int, int, bytes]]) -> None:
    body = SAMPLE
    for at, length, new in mutations:
        body = body[:at] + new + body[at + length :]
    try:
        decode(json_of(parse_form(body, BOUNDARY), Body, ("image",)), Body)
    except InvalidRequest as error:
        error.message.encode()
