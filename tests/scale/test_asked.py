"""Who answers a request, read from its method, path and body."""

import codecs
import time

import msgspec
import pytest

from localinfra.api.generation.usage import EXPECTED_ANSWER
from localinfra.models.entries import ImageModelEntry, TextModelEntry
from localinfra.scale.asked import Asked, Reach, asked_for


def asked(method: str, path: str, body: object = b"") -> Asked:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return asked_for(method, path, raw)


def asked_by(form: bytes) -> Asked:
    content_type = "multipart/form-data; boundary=b"
    return asked_for("POST", "/v1/images/edits", form, content_type=content_type)


CHAT = {"model": "echo", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("method", "path", "reach", "model"),
    [
        ("GET", "/metrics", Reach.ALL, None),
        ("GET", "/v1/requests", Reach.ALL, None),
        ("POST", "/v1/models/reload", Reach.ALL, None),
        ("GET", "/health", Reach.GROUPS, None),
        ("HEAD", "/health", Reach.ONE, None),
        ("GET", "/v1/models", Reach.GROUPS, None),
        ("GET", "/v1/openai/models", Reach.GROUPS, None),
        ("GET", "/api/tags", Reach.GROUPS, None),
        ("GET", "/v1/models/tests/echo", Reach.ONE, "tests/echo"),
        ("POST", "/v1/models/tests/echo/load", Reach.GROUP, "tests/echo"),
        ("POST", "/v1/models/tests/echo/unload", Reach.GROUP, "tests/echo"),
        ("DELETE", "/v1/models/echo", Reach.ONE, "echo"),
        ("GET", "/", Reach.ONE, None),
        ("GET", "/v1/chats", Reach.ONE, None),
    ],
)
def test_without_a_body(method: str, path: str, reach: Reach, model: str | None) -> None:
    found = asked(method, path)
    assert (found.reach, found.model) == (reach, model)
    assert not found.uses_model


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/openai/chat/completions",
        "/v1/messages",
        "/anthropic/v1/messages",
    ],
)
def test_a_chat_names_its_model_and_begins_with_its_messages(path: str) -> None:
    found = asked("POST", path, CHAT)
    assert found.model == "echo" and found.uses_model and len(found.prefix.borders) == 1


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1/engines/tests/echo/completions", "tests/echo"),
        ("/v1/engines/tests/echo/chat/completions", "tests/echo"),
        ("/v1/engines/a/b/embeddings", "a/b"),
        ("/v1/inference/tests/echo:v1", "tests/echo:v1"),
    ],
)
def test_a_model_in_the_path_counts(path: str, model: str) -> None:
    assert asked("POST", path, {"input": "Hi", "model": "other"}).model == model


def test_embeddings_have_no_prefix() -> None:
    assert asked("POST", "/v1/embeddings", {"model": "m", "input": "x" * 5000}).prefix.borders == ()


def test_ollamas_clients_may_say_name() -> None:
    found = asked("POST", "/api/show", {"name": "echo:latest"})
    assert found.model == "echo:latest" and not found.uses_model
    assert asked("POST", "/tokenize", {"name": "other", "prompt": "x"}).model is None


FORM = (
    b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n\x89PNG\r\n'
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n'
    b"Content-Type: text/plain\r\n\r\nflux\r\n--b--\r\n"
)


@pytest.mark.parametrize(
    "form",
    [
        FORM,
        FORM.replace(b"flux", b'"flux"'),  # DeepInfra's client sends JSON
        FORM.replace(b'form-data; name="model"', b"form-data; Name=model"),
        # After much else, in which another name seems to stand.
        FORM.replace(b"\x89PNG", b'name="model"\r\n\r\nother\r\n' + bytes(3 << 20)),
        FORM.replace(b"a.png", b'name="model"'),
    ],
)
def test_a_form_names_its_model_as_the_replica_reads_it(form: bytes) -> None:
    found = asked_by(form)
    assert found.model == "flux" and found.uses_model


@pytest.mark.parametrize(
    "form",
    [
        b'name="model"\r\nx: y\r\n' * 500_000,
        b"--b \t" * 500_000,
        FORM.replace(b"--b--", FORM),  # two of them
        FORM.replace(b"flux", b""),
        FORM[:-9],
    ],
)
def test_a_form_that_names_none_is_read_in_a_moment(form: bytes) -> None:
    started = time.thread_time()
    found = asked_by(form)
    assert found.model is None and found.uses_model
    assert time.thread_time() - started < 2


def test_a_body_with_a_byte_order_mark_is_read_too() -> None:
    marked = codecs.BOM_UTF8 + msgspec.json.encode(CHAT)
    assert asked("POST", "/v1/chat/completions", marked).model == "echo"


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/openai/images/edits"])
@pytest.mark.parametrize("body", [{"prompt": "a river"}, b"--b\r\n"])
def test_pictures_need_no_model(path: str, body: object) -> None:
    found = asked("POST", path, body)
    assert found.model is None and found.kind is ImageModelEntry and found.uses_model


def test_tokens_are_counted_by_the_model_that_a_body_or_query_names() -> None:
    assert asked("POST", "/tokenize", {"model": "m", "prompt": "x"}).model == "m"
    assert asked("POST", "/v1/detokenize", {"tokens": [1]}).kind is TextModelEntry
    assert asked_for("GET", "/tokenizer_info", b"", query=b"model=x&model=a%2Fb").model == "a/b"
    assert asked("GET", "/tokenizer_info").model is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/generate", {"keep_alive": 0}),
        ("/api/generate", {"prompt": "", "images": None}),
        ("/api/chat", {"messages": [], "keep_alive": "10m"}),
    ],
)
def test_what_ollamas_clients_load_or_unload_is_so_on_all_replicas(
    path: str, body: dict[str, object]
) -> None:
    found = asked("POST", path, body | {"model": "m"})
    assert (found.reach, found.model) == (Reach.GROUP, "m")
    full = body | {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}
    assert asked("POST", path, full | {"model": "m"}).reach is Reach.ONE


@pytest.mark.parametrize(
    "path",
    ["/v1/responses/resp_1", "/v1/responses/resp_1/cancel", "/v1/responses/resp_1/input_items",
     "/v1/openai/responses/resp_1", "/v1/requests/resp_1", "/v1/requests/resp_1/events",
     "/v1/images/files/resp_1"],
)  # fmt: skip
def test_what_one_replica_keeps_is_named_in_the_path(path: str) -> None:
    assert asked("GET", path).ids == ("resp_1",)


def test_responses_go_on_where_they_are_kept() -> None:
    going_on = {"model": "echo", "input": "And?", "previous_response_id": "resp_1"}
    assert asked("POST", "/v1/responses", going_on).ids == ("resp_1",)
    item = {"type": "item_reference", "id": "msg_1"}
    referring = {"model": "echo", "input": [{"role": "user", "content": "Hi"}, item]}
    assert asked("POST", "/v1/responses", referring).ids == ("msg_1",)
    assert asked("POST", "/v1/responses/compact", going_on).ids == ("resp_1",)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b'{"model": 5}', b'{"messages": {}}', b"[" * 100_000]
)
def test_wrong_bodies_are_for_the_replica_to_refuse(body: bytes) -> None:
    found = asked("POST", "/v1/chat/completions", body)
    assert (found.reach, found.model, found.ids) == (Reach.ONE, None, ())


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "echo", "messages": [{"role": "user",' + b" " * (3 << 20) + b'"content": ""}]}',
        b'{"model": "echo", "messages": [{"cache_control"' + b" " * (3 << 20) + b": 1}]}",
    ],
)
def test_bodies_made_to_take_long_do_not(body: bytes) -> None:
    """Time that grows with the square of such a length would be hours."""
    asked("POST", "/v1/chat/completions", body)


def test_tokens_are_expected_as_a_server_does() -> None:
    def expected(**fields: object) -> int:
        return asked("POST", "/v1/chat/completions", CHAT | fields).expected_tokens

    assert 0 < expected() - EXPECTED_ANSWER < 40
    assert expected(max_tokens=1000, n=2) > 2000 > expected(max_tokens=1000)
    assert expected(max_tokens="x") == pytest.approx(expected(), abs=10)
    picture = [{"role": "user", "content": "A" * 100_000}]
    assert expected(messages=picture) < EXPECTED_ANSWER + 400
    embedded = asked("POST", "/v1/embeddings", {"model": "m", "input": "word " * 400})
    assert 400 < embedded.expected_tokens < 600


def test_what_is_heavier_than_any_route_takes_is_only_weighed() -> None:
    for many in (b"1," * (1 << 20), b"[]," * (1 << 20)):
        body = b'{"model":"echo","input":"Hi","other":[%b1]}' % many
        assert asked("POST", "/v1/embeddings", body).model is None
        lighter = body.replace(many, many[: len(many) // 2])
        assert asked("POST", "/v1/embeddings", lighter).model == "echo"


def test_a_name_is_no_longer_than_one_may_be() -> None:
    for length, known in ((4096, "\n" * 4096), (1 << 20, None)):
        assert asked("POST", "/v1/embeddings", {"model": "\n" * length}).model == known
