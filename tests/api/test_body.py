"""JSON bodies: what is accepted, and how a refusal names the field."""

import json
from typing import Annotated, Literal, SupportsIndex

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Meta

from localinfra.api.http.body import (
    Decoded,
    decode,
)
from localinfra.errors import (
    ApiError,
    InvalidRequest,
    UnsupportedParameter,
)


class Text(msgspec.Struct, tag="text", tag_field="type"):
    text: str


class Image(msgspec.Struct, tag="image", tag_field="type"):
    url: str


class Message_(msgspec.Struct):
    role: Literal["user", "system"]
    content: str | list[Text | Image] | None = None


class Options(msgspec.Struct, rename="camel"):
    include_usage: bool = False


class Chat(msgspec.Struct):
    model: str
    messages: Annotated[list[Message_], Meta(min_length=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0
    n: Annotated[int, Meta(ge=1, le=128)] = 1
    stop: str | list[str] = []
    prompt: str | list[str | int | list[int]] = ""
    logit_bias: dict[int, Annotated[float, Meta(ge=-100, le=100)]] = {}
    response_format: dict[str, object] = {}
    options: Options = msgspec.field(name="streamOptions", default_factory=Options)

    def __post_init__(self) -> None:
        if self.n == 99:
            raise UnsupportedParameter("not here", "n")
        if self.n == 98:
            raise ValueError("n and temperature do not go together")


def refused(body: str | bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        decode(body.encode() if isinstance(body, str) else body, Chat)
    assert caught.value.status == 400 and caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ("{}", "model", "required"),
        ('{"model": null}', "model", "required"),
        ('{"model": 1}', "model", "expected `str`, got `int`"),
        ('{"model": "a", "messages": []}', "messages", "length >= 1"),
        ('{"model": "a", "messages": [{}]}', "messages[0].role", "required"),
        ('{"model": "a", "messages": [{"role": "x"}]}', "messages[0].role", "'x'"),
        (
            '{"model": "a", "messages": [{"role": "user"}, {"role": "user", "content": 5}]}',
            "messages[1].content",
            "got `int`",
        ),
        (
            '{"model": "a", "messages": [{"role": "user", "content": [{"type": "video"}]}]}',
            "messages[0].content[0].type",
            "'video'",
        ),
        (
            '{"model": "a", "messages": [{"role": "user", "content": [{"text": "hi"}]}]}',
            "messages[0].content[0].type",
            "required",
        ),
        ('{"model": "a", "temperature": 3}', "temperature", "<= 2"),
        ('{"model": "a", "temperature": "1"}', "temperature", "got `str`"),
        ('{"model": "a", "temperature": 1e999}', "temperature", "out of range"),
        ('{"model": "a", "n": 1.5}', "n", "got `float`"),
        ('{"model": "a", "n": true}', "n", "got `bool`"),
        ('{"model": "a", "n": %s}' % ("1" * 5000), "n", "out of range"),
        ('{"model": "a", "stop": ["a", 1]}', "stop[1]", "got `int`"),
        ('{"model": "a", "prompt": [[1, "a"]]}', "prompt[0][1]", "got `str`"),
        ('{"model": "a", "logit_bias": {"x": 1}}', "logit_bias", "expected `int`"),
        ('{"model": "a", "logit_bias": {"1": 101}}', "logit_bias[...]", "<= 100"),
        (
            '{"model": "a", "streamOptions": {"includeUsage": 1}}',
            "streamOptions.includeUsage",
            "bool",
        ),
        ('{"model": "a", "streamOptions": [1]}', "streamOptions", "object"),
        ('{"model": "a", "n": 98}', None, "n and temperature do not go together"),
        ("[]", None, "expected `object`"),
        ("null", None, "expected `object`"),
        ('"text"', None, "expected `object`"),
        ("17", None, "expected `object`"),
    ],
)
def test_a_wrong_value_is_reported_with_its_path(body: str, param: str | None, says: str) -> None:
    error = refused(body)
    assert error.param == param and says in error.message
    assert "$" not in error.message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \n",
        b"{",
        b'{"model": "a"',
        b'{"model": "a"} x',
        b'{"model": "a",}',
        b"{'model': 'a'}",
        b'{"model": NaN}',
        b'{"model": "a", "unknown": NaN}',
        b'{"model": "a", "temperature": Infinity}',
        b'{"model": "a", "unknown": tru}',
        b'{"model": "\xff"}',
        b'{"\xff": "a"}',
        b'{"model": "a", "response_format": {"\xff": 1}}',
        b'{"model": "\\ud800"}',
        b'{"model": "\\udc00"}',
        b'{"model": "a", "unknown": "\\ud800"}',
        b'{"model": "a", "\\ud800": 1}',
        b'{"model": "a\n"}',
        b"\xef\xbb\xbf\xef\xbb\xbf{}",
        '{"model": "a"}'.encode("utf-16"),
        b"model=a&prompt=b",
        b"\x00" * 100,
    ],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    assert "not valid JSON" in refused(body).message


@pytest.mark.parametrize(
    ("body", "says", "param"),
    [
        ('{"model": "x\\ud800"}', r"\ud800 at byte 12", "model"),
        ('{"model": "\\udc00 and so on"}', r"\udc00 at byte 11", "model"),
        ('{"model": "\\ud83d\\u0041"}', r"\ud83d at byte 11", "model"),
        ('{"model": "\\ud83d\\ud83d\\ude00"}', r"\ud83d at byte 11", "model"),
        ('{"model": "\\ud83d\\ude00\\ude00"}', r"\ude00 at byte 23", "model"),
        ('{"model": "\\\\\\uDFFF\\n"}', r"\uDFFF at byte 13", "model"),
        ('{"a": {"b": [1, {"c d": "cut \\uD83D"}]}}', r"\uD83D at byte 29", "a.b[1].c d"),
        ('{"a": {"\\ud800": "\\ud800"}}', r"\ud800 at byte 8", "a"),
        ('{"model": "x\\ud800', r"\ud800 at byte 12", None),
        ('{"a": "%s", "model": "x\\ud800"}' % ("x" * (1 << 20)), r"\ud800 at byte 1048597", None),
    ],
)
def test_a_lone_surrogate_is_reported_with_its_place(
    body: str, says: str, param: str | None
) -> None:
    error = refused(body)
    assert says in error.message and "lone surrogate" in error.message
    assert error.param == param


def test_a_lone_surrogate_is_found_in_a_body_with_long_paths() -> None:
    body = f'{{"{"n" * 500_000}": [{"1," * 100_000}"\\ud800"]}}'
    error = refused(body)
    assert error.param == f"{'n' * 100}[100000]"


@pytest.mark.parametrize(
    "body",
    ['{"model": "\\ud83d\\ude00', '{"model": "\\\\ud800', '{"model": "\\ud8"}', '{"model": "a'],
)
def test_other_mistakes_are_not_reported_as_lone_surrogates(body: str) -> None:
    assert "surrogate" not in refused(body).message


@pytest.mark.parametrize("field", ["unknown", "response_format", "messages", "model"])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("depth", [10_000, 100_000])
def test_deep_nesting_is_refused_even_in_unknown_fields(
    field: str, opening: str, closing: str, depth: int
) -> None:
    whole = opening * depth + "1" + closing * depth
    refused(f'{{"model": "a", "{field}": {whole}}}')
    refused(f'{{"model": "a", "{field}": {opening * depth}')


def test_huge_numbers_are_refused_or_ignored_and_never_crash() -> None:
    huge = "1" * 5000
    assert refused(f'{{"model": "a", "response_format": {{"a": {huge}}}}}').param is not None
    body = f'{{"model": "a", "unknown": {huge}}}'.encode()
    assert decode(body, Chat).ignored == ("unknown",)


def test_null_counts_as_absent_at_the_top_level() -> None:
    fields = ["temperature", "n", "stop", "prompt", "logit_bias", "streamOptions", "messages"]
    nulls = "".join(f', "{name}" : null ' for name in fields)
    assert decode(b'{"model": "a"%s}' % nulls.encode(), Chat).value == Chat("a")


def test_null_inside_a_value_stays() -> None:
    body = b'{"model": "a", "n": null, "response_format": {"default": null, "enum": [null]}}'
    assert decode(body, Chat).value.response_format == {"default": None, "enum": [None]}


def test_the_last_of_two_equal_names_counts() -> None:
    assert decode(b'{"model": "a", "n": 2, "n": 3}', Chat).value.n == 3
    assert decode(b'{"model": "a", "n": 2, "n": null}', Chat).value.n == 1


def test_an_error_raised_by_the_struct_keeps_its_class() -> None:
    error = refused('{"model": "a", "n": 99}')
    assert (error.code, error.param) == ("unsupported_parameter", "n")


def test_unknown_fields_are_named() -> None:
    decoded = decode(b'{"model": "a", "x": 1, "stream_options": {}, "y": null}', Chat)
    assert decoded.ignored == ("x", "stream_options", "y")
    assert decoded.headers == {"x-localinfra-ignored": "x, stream_options, y"}
    assert decode(b'{"model": "a"}', Chat).headers == {}


@pytest.mark.parametrize("num_ignored", [1, 10_000])
def test_no_more_names_are_compared_than_can_be_listed(num_ignored: int) -> None:
    num_compared = 0

    class Path(str):
        def startswith(self, prefix: str | tuple[str, ...], *bounds: SupportsIndex | None) -> bool:
            nonlocal num_compared
            num_compared += len(prefix)
            return super().startswith(prefix, *bounds)

    ignored = tuple(f"field{number}" for number in range(num_ignored))
    unknown = tuple(Path(f"tools[{number}].x") for number in range(10_000))
    header = Decoded(Text(""), ignored, unknown=unknown).headers["x-localinfra-ignored"]
    assert header.count(",") == 20 and header.endswith(", ...")
    assert num_compared < 100


def test_ignored_names_are_safe_in_a_header() -> None:
    names = [
        "\r\nset-cookie: a=b",
        "ünï",
        "a,b",
        "",
        "x" * 5000,
        "😀",
        *(f"f{i}" for i in range(50)),
    ]
    body = msgspec.json.encode({"model": "a"} | dict.fromkeys(names, 1))
    header = decode(body, Chat).headers["x-localinfra-ignored"]
    assert header.isascii() and header.isprintable() and len(header) < 2000
    assert header.startswith("%0D%0Aset-cookie:%20a=b, ") and "a%2Cb" in header
    assert header.count(", ") == 20 and header.endswith(", ...")


# Any bytes give either a struct or a 400.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(Chat.__struct_encode_fields__) | st.text(max_size=5)
SEED_BODY = (
    b'{"model": "a", "messages": [{"role": "user", "content": [{"type": "text", "text": "\\u00e9"}'
    b']}], "logit_bias": {"5": -1.5e1}, "prompt": [[1, 2]], "x": {"y": [null, 1e5]}, "n": null}'
)
MUTATION = st.tuples(
    st.integers(0, len(SEED_BODY)), st.integers(0, 6), st.binary(max_size=6) | st.just(b"\\ud800")
)


def is_answered(body: bytes) -> None:
    try:
        assert isinstance(decode(body, Chat).value, Chat)
    except InvalidRequest as error:
        error.message.encode()


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(NAMES, JSON, max_size=6))
def test_any_json_object_is_answered(fields: dict[str, object]) -> None:
    is_answered(json.dumps({"model": "a"} | fields).encode())


@settings(max_examples=500, deadline=None)
@given(st.lists(MUTATION, max_size=5))
@example([])
def test_a_damaged_body_is_answered(mutations: list[tuple[int, int, bytes]]) -> None:
    body = SEED_BODY
    for at, length, new in mutations:
        body = body[:at] + new + body[at + length :]
    is_answered(body)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_answered(body: bytes) -> None:
    is_answered(body)
