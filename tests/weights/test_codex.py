"""What agents such as Codex need of the real model: long prompts, and signs of life meanwhile."""

import codex
import msgspec
import pytest
from answers import ignored, parsed
from live import LiveServer

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"

pytestmark = pytest.mark.timeout(600)


def test_both_turns_of_codex_are_answered(server: LiveServer) -> None:
    """At a small scale: the model's context is."""
    items = codex.opening(0.02)
    named = {"type": "function", "name": "spawn_agent", "namespace": "multi_agent_v1"}
    opening = codex.request(items, 0.02, tool_choice=named, temperature=0, max_output_tokens=160)
    first = list(parsed(server.post(RESPONSES, opening).content))
    last = first[-1]
    assert last["type"] == "response.completed", last
    assert [event["sequence_number"] for event in first] == list(range(len(first)))
    [call] = last["response"]["output"]
    assert (call["name"], call["namespace"]) == ("spawn_agent", "multi_agent_v1")
    assert [tool["type"] for tool in last["response"]["tools"]] == ["function"] * 7 + ["namespace"]
    following = codex.request(codex.answered(items, [call]), 0.02, max_output_tokens=4)
    reply = server.post(RESPONSES, following)
    assert ignored(reply) == ["client_metadata", "reasoning.summary", "tools[8]"]
    second = list(parsed(reply.content))
    assert second[0]["type"] == "response.created"
    assert second[-1]["response"]["usage"]["output_tokens"] <= 4


@pytest.mark.parametrize(
    ("path", "beat"),
    [
        (CHAT, b"\n: keep-alive\n"),
        (MESSAGES, b'\nevent: ping\ndata: {"type":"ping"}\n'),
        (RESPONSES, b"\nevent: response.in_progress\ndata: "),
    ],
)
def test_while_a_prompt_is_read_each_api_has_its_sign_of_life(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, path: str, beat: bytes
) -> None:
    """Codex and others wait for events: to them a comment is silence."""
    hurried = msgspec.structs.replace(server.runtime.settings, keepalive_s=0.01)
    monkeypatch.setattr(server.runtime, "settings", hurried)
    prompt = f"{path} " * 60  # that no other test has left in the cache
    asked = {
        CHAT: {"messages": [{"role": "user", "content": prompt}], "max_tokens": 2},
        MESSAGES: {"messages": [{"role": "user", "content": prompt}], "max_tokens": 2},
        RESPONSES: {"input": prompt, "max_output_tokens": 2},
    }
    body = server.post(path, {"model": "smollm2", "stream": True, **asked[path]}).content
    num_own = path == RESPONSES  # the one that follows response.created
    assert body.count(beat) > num_own
    if path == RESPONSES:
        numbers = [event["sequence_number"] for event in parsed(body)]
        assert numbers == list(range(len(numbers)))
