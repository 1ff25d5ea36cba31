"""Compaction: a summary by the model, to be sent in place of the conversation."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from answers import assert_error
from echo import EchoServer
from responding import TOOLS, create

from localinfra.api.openai.responses.conversation import SUMMARIZE

CONVERSATION: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Which river is the longest?"},
    {"type": "function_call", "call_id": "c1", "name": "now", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "Noon."},
    {"role": "assistant", "content": "The Nile."},
    {"role": "user", "content": "And the widest?"},
]
USERS = ["Which river is the longest?", "And the widest?"]
GREEDY = {"temperature": 0, "max_output_tokens": 1000}
TRIGGER = {"type": "compaction_trigger"}
# The echo repeats the last message of the user.
SUMMARY = {"type": "compaction", "encrypted_content": f"localinfra:{SUMMARIZE}"}


@pytest.fixture(scope="module")
def client(server: EchoServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        yield client


def is_part(part: dict[str, Any], whole: dict[str, Any]) -> bool:
    return part.items() <= whole.items()


def test_a_conversation_becomes_its_users_messages_and_a_summary(
    client: openai.OpenAI, server: EchoServer
) -> None:
    body = {"model": "echo", "input": CONVERSATION, "tools": TOOLS, **GREEDY}
    done = server.post("/v1/responses/compact", body).json()
    assert done["object"] == "response.compaction" and done["usage"]["output_tokens"] > 0
    *kept, summary = done["output"]
    assert [message["content"][0]["text"] for message in kept] == USERS
    assert is_part(SUMMARY, summary)

    then = create(client, [*kept, summary, {"role": "user", "content": "Go on."}])
    assert then.output_text == "Go on."


def test_openais_client_reads_it(client: openai.OpenAI) -> None:
    done = client.responses.compact(model="echo", input="Hi")
    assert done.object == "response.compaction" and done.output[-1].type == "compaction"


@pytest.mark.parametrize("stream", [False, True])
def test_codex_gets_a_summary_in_place_of_an_answer(server: EchoServer, stream: bool) -> None:
    body = {"model": "echo", "input": [*CONVERSATION, TRIGGER], "tools": TOOLS, **GREEDY}
    reply = server.post("/v1/responses", {**body, "tool_choice": "required", "stream": stream})
    assert "compaction_trigger" not in reply.headers.get("x-localinfra-ignored", "")
    if stream:
        assert reply.text.count("event: response.output_item.done") == 1
        assert '"type":"response.completed"' in reply.text
    else:
        [item] = reply.json()["output"]
        assert is_part(SUMMARY, item) and reply.json()["status"] == "completed"


def test_a_next_response_continues_the_summary(client: openai.OpenAI, server: EchoServer) -> None:
    first = create(client, [*CONVERSATION, TRIGGER], max_output_tokens=None)
    then = create(client, "Go on.", previous_response_id=first.id)
    listed = server.client.get(f"/v1/responses/{then.id}/input_items?order=asc").json()["data"]
    assert [item["type"] for item in listed] == ["message", "message", "compaction", "message"]


def test_a_conversation_finds_its_own_prefix_when_it_is_summarized(client: openai.OpenAI) -> None:
    before = create(client, CONVERSATION, tools=TOOLS, max_output_tokens=1)
    after = create(client, [*CONVERSATION, TRIGGER], tools=TOOLS, max_output_tokens=8)
    assert before.usage and after.usage
    cached = after.usage.input_tokens_details.cached_tokens
    assert cached >= 0.9 * before.usage.input_tokens


def test_an_empty_summary_is_an_error(server: EchoServer) -> None:
    body = {"model": "echo", "input": "Hi", "max_output_tokens": 0}
    reply = server.post("/v1/responses/compact", body)
    assert_error(reply, 503, None, "no_summary")


def test_a_compaction_is_not_streamed(server: EchoServer) -> None:
    reply = server.post("/v1/responses/compact", {"model": "echo", "input": "Hi", "stream": True})
    assert_error(reply, 400, "stream", "unsupported_parameter")
