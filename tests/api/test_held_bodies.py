"""What bodies that have arrived take in memory, until their requests have ended."""

import asyncio
import gc
import tracemalloc
from collections.abc import Mapping

import msgspec
import pytest
from asgi import scope_of
from large_bodies import fillings, places
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from localinfra.api.http.bodies import FREE_BYTES, BodyLimits, HeldBodies, HeldBody
from localinfra.api.http.body import read_body, receive_body, struct_of
from localinfra.api.http.form import read_body_or_form
from localinfra.api.http.limiting import Limiting
from localinfra.api.http.state import AppState, RequestState
from localinfra.api.http.weight import MAX_TOKEN_IDS, Weight
from localinfra.api.openai.chat import ChatCompletionRequest
from localinfra.api.openai.embeddings import EmbeddingsRequest
from localinfra.config.settings import ServerSettings
from localinfra.costs import Ledger
from localinfra.errors import ApiError, QueueFull
from localinfra.models.catalog import Catalog
from localinfra.runtime import Runtime
from localinfra.steps import done

KIB = 1024


class Text(msgspec.Struct):
    text: str


def test_a_client_has_its_share_whatever_others_hold() -> None:
    bodies = HeldBodies(1000)
    greedy = [HeldBody(bodies, "greedy") for _ in range(10)]
    for body in greedy:
        body.grow(100)
    with pytest.raises(QueueFull, match="raise max_held_bytes") as caught:
        HeldBody(bodies, "greedy").grow(1)
    assert caught.value.retry_after_s == 5
    shy = HeldBody(bodies, "shy")
    shy.grow(500)  # half of it
    with pytest.raises(QueueFull):
        shy.grow(501)
    HeldBody(bodies, "third").grow(333)
    for body in (*greedy, *greedy):
        body.release()
    assert bodies.num_bytes == 833
    HeldBody(bodies, "greedy").grow(167)


def test_a_body_larger_than_the_limit_is_let_in_alone() -> None:
    bodies = HeldBodies(1000)
    large = HeldBody(bodies, "one")
    large.grow(3000)
    with pytest.raises(QueueFull):
        HeldBody(bodies, "one").grow(1)
    large.release()
    HeldBody(bodies, "one").grow(1)
    with pytest.raises(QueueFull):
        large.grow(3000)
    assert bodies.num_bytes == 1


PLACES = [
    "messages",
    "messages[].content",
    "messages[].content[].image_url.url",
    "response_format.schema{}",
    "unknown",
    "stop",
]


@pytest.mark.parametrize("path", PLACES)
def test_no_less_is_counted_than_a_chat_takes(path: str) -> None:
    given = {"model": "a", "messages": [{"role": "user", "content": "a"}]}
    check_counts(ChatCompletionRequest, given, path)


def test_no_less_is_counted_than_lists_of_token_ids_take() -> None:
    check_counts(EmbeddingsRequest, {"model": "a", "input": "a"}, "input")


def check_counts(kind: type[msgspec.Struct], given: Mapping[str, object], path: str) -> None:
    wanted = f"{kind.__name__}.{path}"
    found = [place for place in places(kind, given) if place.path == wanted]
    assert found
    for filled in (filled for place in found for filled in fillings(place, 64 * KIB)):
        body, weight = filled.body(), Weight(MAX_TOKEN_IDS)
        try:
            weight.add(body)
            weight.finish()
            done(struct_of(body, kind))  # the struct is described the first time
        except ApiError:
            continue  # it is refused, and holds nothing
        gc.collect()
        tracemalloc.start()
        try:
            decoded = done(struct_of(body, kind))
            taken = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert taken <= 1.1 * weight.held_bytes, filled.how
        assert decoded


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("a" * 200_000, 1),
        ("a" * 200_000 + "—", 2),
        ("a" * 200_000 + "🦙", 4),
        ("🦙" + "a" * 200_000, 4),
        ("a" * 200_000 + "\\u2014", 2),
        ("a" * 200_000 + "\\ud83e\\udd99", 4),
        ("a" * 200_000 + "\\uD83E\\uDD99", 4),
        ("a" * 200_000 + "\\\\ud83e", 1),  # a backslash, and letters
    ],
)
@pytest.mark.parametrize("num_before", [0, 1])
def test_a_wide_character_makes_the_whole_text_wide(text: str, width: int, num_before: int) -> None:
    body = b" " * num_before + b'"%b"' % text.encode()
    weight = Weight()
    for at in range(0, len(body), 10_001):
        weight.add(body[at : at + 10_001])
    weight.finish()
    assert weight.held_bytes == pytest.approx(width * len(body), rel=0.01)


@pytest.mark.parametrize("said", ["🦙", "\\ud83e\\udd99", "—", 'a \\"llama\\"'])
@pytest.mark.parametrize("piece_bytes", [1000, 70_001, 1 << 20])
def test_a_picture_counts_once_whatever_is_said_beside_it(said: str, piece_bytes: int) -> None:
    picture = "iVBORw0KGgo/" * 50_000
    body = f'["{said}", "{picture}", "{said}", "{picture}", "{said}"]'.encode()
    weight = Weight()
    for at in range(0, len(body), piece_bytes):
        weight.add(body[at : at + piece_bytes])
    weight.finish()
    assert len(body) - 100 < weight.held_bytes < len(body) + 1000


@pytest.mark.parametrize("num_before", range(14))
def test_a_code_that_is_cut_is_wide_too(num_before: int) -> None:
    """Wherever the pieces end in which a body is counted."""
    weight = Weight()
    weight.add(b'"' + b"a" * (FREE_BYTES - num_before) + b'\\ud83e\\udd99"')
    weight.finish()
    assert weight.held_bytes > 4 * FREE_BYTES - 100


JSON = [("content-type", "application/json")]
FORM = [("content-type", "multipart/form-data; boundary=x")]


def form(text: bytes, file_bytes: int) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
    parts = head % (b"text", b"", text) + head % (b"file", b'; filename="a.png"', bytes(file_bytes))
    return parts + b"--x--\r\n"


def sending(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def held_meanwhile(body: bytes, max_bytes: int = 1 << 30, *, fails: bool = False) -> int:
    """What is held while a request with this body is answered; nothing is, after that."""
    bodies = HeldBodies(max_bytes)
    limits = BodyLimits(1 << 24, 60.0, held=bodies)
    seen: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(Request(scope, receive), Text, limits)
        seen.append(bodies.num_bytes)
        assert not fails

    async def run() -> None:
        await Limiting(app)(scope_of("POST", headers=JSON), sending(body), nowhere)

    try:
        asyncio.run(run())
    finally:
        assert bodies.num_bytes == 0
    return seen[0]


async def nowhere(message: Message) -> None: ...


def test_a_small_body_is_free() -> None:
    assert held_meanwhile(b'{"text": "%b"}' % ("🦙" * 10_000).encode()) == 0


def test_a_body_counts_until_its_request_has_ended() -> None:
    body = b'{"text": "%b"}' % ("a" * 100_000 + "🦙").encode()
    assert 400_000 < held_meanwhile(body) < 410_000
    with pytest.raises(AssertionError):
        held_meanwhile(body, fails=True)


def test_what_is_held_by_others_lets_small_bodies_in() -> None:
    bodies = HeldBodies(1000)
    HeldBody(bodies, "").grow(1000)
    limits = BodyLimits(1 << 24, 60.0, held=bodies)

    async def read(size: int) -> None:
        body = b'{"text": "%b"}' % (b"a" * size)
        request = Request(scope_of("POST", headers=JSON), sending(body))
        await read_body(request, Text, limits)

    asyncio.run(read(60_000))
    with pytest.raises(QueueFull):
        asyncio.run(read(70_000))
    assert bodies.num_bytes == 1000


class WithFile(msgspec.Struct):
    text: str
    file: str


def test_texts_and_files_of_a_form_count_as_what_they_become() -> None:
    scope, given = scope_of("POST", headers=FORM), form(("a" * 30_000 + "🦙").encode(), 200_000)

    async def read() -> HeldBodies:
        state = AppState(Runtime(ServerSettings(), Catalog({})), Ledger())
        scope["app"] = Starlette()
        state.attach(scope["app"])
        request = Request(scope, sending(given))
        decoded = await read_body_or_form(request, WithFile, state.limits, ["file"])
        assert len(decoded.value.text) == 30_001 and len(decoded.value.file) > 260_000
        await state.runtime.close()
        assert state.limits.held is not None
        return state.limits.held

    bodies = asyncio.run(read())
    assert bodies.num_bytes == 4 * 30_004 + 2 * 200_000
    held = RequestState.of(scope).body
    assert held is not None
    held.release()
    assert bodies.num_bytes == 0


@pytest.mark.parametrize("is_wide", [False, True])
def test_a_gateway_counts_the_bytes_that_it_passes_on(is_wide: bool) -> None:
    bodies = HeldBodies(1 << 30)
    body = b"[" + ("🦙" if is_wide else "a").encode() * 100_000 + b"]"
    scope = scope_of("POST")
    limits = BodyLimits(1 << 24, 60.0, held=bodies)
    assert asyncio.run(receive_body(Request(scope, sending(body)), limits)) == body
    assert bodies.num_bytes == len(body)
