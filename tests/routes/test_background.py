"""Answers that go on without their client, with openai's client."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from answers import assert_error
from echo import END, EchoServer
from responding import COUNT, create
from waiting import wait_for

LETTERS = "a b c d e " * 12
ENDLESS: dict[str, Any] = {"logit_bias": {str(END): -100}}  # ten seconds, of the slow model
CHAT = {"model": "slow", "messages": [{"role": "user", "content": LETTERS}],
        "temperature": 0, "stream": True, "background": True}  # fmt: skip
SLOW = """
[model."slow"]
kind = "text"
source = "slow.gguf"
context_length = 4096
"""


ClientOf = Callable[..., openai.OpenAI]


@pytest.fixture
def client_of() -> Iterator[ClientOf]:
    """Makes clients of a server with a key, and closes them."""
    with contextlib.ExitStack() as made:

        def client_of(server: EchoServer, key: str = "none") -> openai.OpenAI:
            url = f"{server.url}/v1"
            client = openai.OpenAI(base_url=url, api_key=key, max_retries=0)
            return made.enter_context(client)

        yield client_of


def begin(client: openai.OpenAI, input: Any = LETTERS, **fields: Any) -> Any:
    fields = {"model": "slow", "temperature": 0, "background": True, **fields}
    return client.responses.create(input=input, **fields)


def ended(client: openai.OpenAI, id: str) -> Any:
    wait_for(lambda: client.responses.retrieve(id).status not in ("queued", "in_progress"))
    return client.responses.retrieve(id)


def running(server: EchoServer) -> list[Any]:
    found: list[Any] = server.client.get("/v1/requests").json()["data"]
    return found


def test_an_answer_goes_on_without_its_client(client: openai.OpenAI, server: EchoServer) -> None:
    queued = begin(client, metadata={"for": "later"})
    assert (queued.status, queued.background, queued.output) == ("queued", True, [])
    response = ended(client, queued.id)
    assert response.status == "completed" and response.output_text == LETTERS
    assert response.usage.output_tokens == len(LETTERS) + 1
    assert response.metadata == {"for": "later"}
    assert running(server) == []
    [item] = client.responses.input_items.list(queued.id)
    assert item.to_dict()["content"] == [{"type": "input_text", "text": LETTERS}]
    later = create(client, "x", model="slow", previous_response_id=queued.id)
    assert later.status == "completed"


def test_a_stream_that_broke_goes_on_after_the_last_event(client: openai.OpenAI) -> None:
    stream, seen = begin(client, stream=True), []
    for event in stream:
        seen.append(event)
        if len(seen) == 9:
            break
    stream.close()
    id, last = seen[0].response.id, seen[-1].sequence_number
    seen += client.responses.retrieve(id, stream=True, starting_after=last)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    kinds = [event.type for event in seen]
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert [event.response.status for event in seen[:3]] == ["queued", "queued", "in_progress"]
    said = [event.delta for event in seen if event.type == "response.output_text.delta"]
    assert "".join(said) == LETTERS
    assert seen[-1].type == "response.completed"
    assert seen[-1].response == client.responses.retrieve(id)
    for start in (None, 0, last, len(seen) - 2, len(seen) - 1, len(seen) + 100):  # again and again
        after: Any = {} if start is None else {"starting_after": start}
        again = list(client.responses.retrieve(id, stream=True, **after))
        assert again == seen[0 if start is None else start + 1 :]


def test_the_clients_own_helper_resumes_a_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(
        model="slow", input=LETTERS, background=True, temperature=0
    ) as stream:
        created: Any = next(iter(stream))
        for event in stream:
            if event.sequence_number == 9:
                break
    with client.responses.stream(response_id=created.response.id, starting_after=9) as resumed:
        numbers = [event.sequence_number for event in resumed]
    assert numbers == list(range(10, 10 + len(numbers)))
    assert resumed.get_final_response().output_text == LETTERS


def test_many_readers_follow_one_answer(client: openai.OpenAI, server: EchoServer) -> None:
    id = begin(client).id
    texts: dict[int, str] = {}

    def read(start: int) -> None:
        path = f"/v1/responses/{id}?stream=true" + (f"&starting_after={start}" if start else "")
        texts[start] = server.client.get(path).text

    readers = [threading.Thread(target=read, args=(start,)) for start in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    whole = texts[0].split("\n\n")
    assert texts[0].count("event: response.completed") == 1
    for start in range(1, 8):
        assert texts[start].split("\n\n") == whole[start + 1 :]


def test_cancelling_ends_an_answer_and_keeps_what_there_is(
    client: openai.OpenAI, server: EchoServer
) -> None:
    stream = begin(client, stream=True, extra_body=ENDLESS)
    events = iter(stream)
    id = next(events).response.id
    while next(events).type != "response.output_text.delta":
        pass
    with pytest.raises(openai.BadRequestError, match="in_progress: wait for its end") as caught:
        create(client, "Go on", previous_response_id=id)
    assert caught.value.param == "previous_response_id"
    assert [one["route"] for one in running(server)] == ["/v1/responses"]
    cancelled = client.responses.cancel(id)
    assert cancelled.status == "cancelled" and cancelled.error is None
    assert cancelled.output_text and cancelled.usage
    assert LETTERS.startswith(cancelled.output_text[: len(LETTERS)])
    assert client.responses.cancel(id) == client.responses.retrieve(id) == cancelled
    *_, last = events
    assert last.type == "response.incomplete" and last.response == cancelled
    assert running(server) == []
    wait_for(lambda: not server.runtime.loaded_text_models()["slow"].is_busy)
    assert create(client, "x", model="slow", previous_response_id=id).status == "completed"


def test_only_background_answers_are_cancelled_and_streamed_again(client: openai.OpenAI) -> None:
    id = create(client, COUNT).id
    with pytest.raises(openai.BadRequestError, match="synchronous"):
        client.responses.cancel(id)
    with pytest.raises(openai.BadRequestError, match="background: true") as caught:
        client.responses.retrieve(id, stream=True)
    assert caught.value.param == "stream"
    for act in (client.responses.cancel, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            act("resp_0")


def test_the_server_may_cancel_it_as_any_request(client: openai.OpenAI, server: EchoServer) -> None:
    stream = begin(client, stream=True, extra_body=ENDLESS, extra_headers={"x-request-id": "long"})
    next(iter(stream))
    assert server.client.delete("/v1/requests/long").json()["cancelled"] == 1
    [*_, last] = stream
    assert last.response.status == "cancelled"


def test_deleting_ends_an_answer(client: openai.OpenAI, server: EchoServer) -> None:
    id = begin(client, extra_body=ENDLESS).id
    assert len(running(server)) == 1
    client.responses.delete(id)
    assert running(server) == []
    for query in ("", "?stream=true"):
        assert_error(server.client.get(f"/v1/responses/{id}{query}"), 404, "response_id",
                     "response_not_found")  # fmt: skip


def test_a_failure_is_told_to_whoever_asks(client: openai.OpenAI) -> None:
    absent = ended(client, begin(client, model="absent").id)
    assert absent.status == "failed" and absent.error.code == "server_error"
    events: list[Any] = list(client.responses.retrieve(absent.id, stream=True))
    assert [event.type for event in events][1:] == ["response.queued", "response.failed"]
    assert [event.sequence_number for event in events] == [0, 1, 2]
    assert events[-1].response == absent
    text = {"format": {"type": "json_schema", "name": "x", "schema": {"enum": [7]}}}
    refused = begin(client, text=text, extra_body={"logit_bias": {str(ord("7")): -100}})
    assert "logit_bias" in ended(client, refused.id).error.message
    with pytest.raises(openai.BadRequestError, match="has failed"):
        create(client, previous_response_id=refused.id)
    with pytest.raises(openai.NotFoundError):  # at once
        begin(client, model="unknown")


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "9" * 16, "²"])
def test_starting_after_is_a_number(client: openai.OpenAI, server: EchoServer, after: str) -> None:
    id = ended(client, begin(client, "Hi").id).id
    reply = server.client.get(
        f"/v1/responses/{id}", params={"stream": "true", "starting_after": after}
    )
    assert_error(reply, 400, "starting_after", "invalid_value")


# --- Chat completions -----------------------------------------------------------------------------


def test_a_chat_is_read_again_by_the_id_of_its_request(server: EchoServer) -> None:
    id = {"x-request-id": "my-chat"}
    with server.client.stream("POST", "/v1/chat/completions", json=CHAT, headers=id) as reply:
        next(reply.iter_bytes())
    whole = server.client.get("/v1/requests/my-chat/events").text
    events = whole.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == LETTERS
    rest = server.client.get("/v1/requests/my-chat/events?starting_after=5").text
    assert rest.split("\n\n") == events[6:]


def test_a_chat_is_ended_by_the_id_of_its_request(server: EchoServer) -> None:
    id, path = {"x-request-id": "endless"}, "/v1/chat/completions"
    with server.client.stream("POST", path, json=CHAT | ENDLESS, headers=id) as reply:
        pieces = reply.iter_bytes()
        next(pieces)
        [found] = running(server)
        assert (found["id"], found["route"]) == ("endless", path)
        again = server.client.post(path, json=CHAT, headers=id)
        assert_error(again, 400, "x-request-id", "invalid_value")
        assert server.client.delete("/v1/requests/endless").status_code == 200
        assert b"request_cancelled" in b"".join(pieces)
    assert "request_cancelled" in server.client.get("/v1/requests/endless/events").text
    assert running(server) == []


def test_a_chat_that_can_not_begin_is_refused_as_ever(server: EchoServer) -> None:
    body = {**CHAT, "chat_template_kwargs": {"of_next_year": 1}, "messages": [
        {"role": "user", "content": "word " * 2000}]}  # fmt: skip
    id = {"x-request-id": "too-long"}
    reply = server.client.post("/v1/chat/completions", json=body, headers=id)
    assert_error(reply, 400, "messages", "context_length_exceeded")
    later = server.client.get("/v1/requests/too-long/events")
    assert later.json() == reply.json()
    short = server.client.post(
        "/v1/chat/completions", json={**CHAT, "chat_template_kwargs": {"of_next_year": 1}}
    )
    assert short.headers["x-localinfra-ignored"] == "chat_template_kwargs.of_next_year"
    plain = server.client.post("/v1/chat/completions", json={**CHAT, "stream": False})
    assert_error(plain, 400, "background", "invalid_value")
    assert_error(server.client.get("/v1/requests/none/events"), 404, None, "not_found")


# --- Limits, keys, and the end --------------------------------------------------------------------


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[EchoServer]:
    server = EchoServer(
        tmp_path,
        '[server]\napi_keys = ["ours", "theirs"]\nmax_background = 1\n'
        "max_answer_event_bytes = 20000\nmax_event_bytes = 40000\n" + SLOW,
    )
    yield server
    server.close()


def test_nobody_sees_or_ends_answers_of_another_key(
    strict: EchoServer, client_of: ClientOf
) -> None:
    ours, theirs = (client_of(strict, key) for key in ("ours", "theirs"))
    id = begin(ours, extra_body=ENDLESS, extra_headers={"x-request-id": "secret"}).id
    for act in (
        lambda: theirs.responses.retrieve(id),
        lambda: theirs.responses.retrieve(id, stream=True),
        lambda: theirs.responses.cancel(id),
        lambda: theirs.responses.delete(id),
        lambda: theirs.responses.create(model="slow", input="x", previous_response_id=id),
    ):
        with pytest.raises(openai.NotFoundError):
            act()
    headers = {"authorization": "Bearer theirs"}
    for name in ("secret", id):
        reply = strict.client.get(f"/v1/requests/{name}/events", headers=headers)
        assert reply.status_code == 404
    assert begin(theirs, "Hi").status == "queued"  # the number is counted for each key
    with pytest.raises(openai.RateLimitError, match="wait for one to end"):
        begin(ours, "Hi")
    assert ours.responses.cancel(id).status == "cancelled"
    assert begin(ours, "Hi").status == "queued"


def test_the_oldest_events_of_a_long_answer_are_dropped(
    strict: EchoServer, client_of: ClientOf
) -> None:
    client = client_of(strict, "ours")
    id = begin(client, LETTERS).id
    response = ended(client, id)
    assert response.output_text == LETTERS
    with pytest.raises(openai.BadRequestError, match="no longer kept") as caught:
        client.responses.retrieve(id, stream=True)
    first = int(caught.value.message.split("before number ")[1].split()[0])
    events = list(client.responses.retrieve(id, stream=True, starting_after=first - 1))
    assert events[0].sequence_number == first and events[-1].type == "response.completed"
    newer = [begin(client, LETTERS).id]
    ended(client, newer[-1])
    newer.append(begin(client, LETTERS).id)
    ended(client, newer[-1])
    with pytest.raises(openai.BadRequestError, match="can no longer be streamed"):
        client.responses.retrieve(id, stream=True, starting_after=first)
    assert client.responses.retrieve(id) == response


def test_the_end_of_the_server_is_told_to_readers(tmp_path: Path, client_of: ClientOf) -> None:
    server = EchoServer(tmp_path, SLOW)
    client = client_of(server)
    stream = begin(client, stream=True, extra_body=ENDLESS)
    created = next(iter(stream))
    begin(client, extra_body=ENDLESS)  # which nobody reads
    server.run(server.runtime.close())
    *_, last = stream
    assert last.type == "response.failed" and "shutting down" in last.response.error.message
    assert client.responses.retrieve(created.response.id) == last.response
    server.close()
