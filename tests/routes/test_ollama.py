"""Ollama's API: conversations, prompts and their streams."""

import json
from typing import Any

import httpx2
import pytest
from echo import ECHO, EchoServer
from messaging import RIVERS, WEATHER

ASKED = RIVERS[0]["content"]
GREEDY = {"temperature": 0, "num_predict": 60}
TOOL = {
    "type": "function",
    "function": {
        "name": WEATHER["name"],
        "description": WEATHER["description"],
        "parameters": WEATHER["input_schema"],
    },
}


def chat(server: EchoServer, **fields: Any) -> httpx2.Response:
    usual = {"model": "echo", "messages": RIVERS, "options": GREEDY, "stream": False}
    return server.post("/api/chat", usual | fields)


def generate(server: EchoServer, **fields: Any) -> httpx2.Response:
    usual = {"model": "echo", "prompt": ASKED, "options": GREEDY, "stream": False}
    return server.post("/api/generate", usual | fields)


def lines(reply: httpx2.Response) -> list[Any]:
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert reply.text.endswith("\n")
    return [json.loads(line) for line in reply.text.splitlines()]


def ignored(reply: httpx2.Response) -> str | None:
    assert reply.status_code == 200, reply.text
    return reply.headers.get("x-localinfra-ignored")


def test_a_conversation_is_answered(server: EchoServer) -> None:
    answer = chat(server).json()
    assert answer["message"] == {"role": "assistant", "content": ASKED}
    assert (answer["model"], answer["done"], answer["done_reason"]) == (ECHO, True, "stop")
    assert answer["created_at"].endswith("Z")
    assert answer["eval_count"] == len(ASKED) + 1 and answer["prompt_eval_count"] > len(ASKED)
    parts = [answer[f"{part}_duration"] for part in ("load", "prompt_eval", "eval")]
    assert all(nanoseconds > 0 for nanoseconds in parts)
    assert abs(sum(parts) - answer["total_duration"]) <= 3  # each is rounded


def test_a_stream_is_the_default_and_adds_up_to_the_whole_answer(server: EchoServer) -> None:
    *parts, last = lines(chat(server, stream=None))
    assert "".join(part["message"]["content"] for part in parts) == ASKED
    assert len(parts) > 1 and not any(part["done"] for part in parts)
    assert not any("total_duration" in part for part in parts)
    assert last["done"] and last["message"] == {"role": "assistant", "content": ""}
    whole = chat(server).json()
    assert last.keys() == whole.keys() and last["eval_count"] == whole["eval_count"]


def test_a_content_type_need_not_be_given(server: EchoServer) -> None:
    """curl sends that of a form unless told otherwise, and fetch that of a text."""
    body = json.dumps({"model": "echo", "messages": RIVERS, "options": GREEDY})
    of_form, of_text = "application/x-www-form-urlencoded", "text/plain;charset=UTF-8"
    for headers in ({}, {"content-type": of_form}, {"content-type": of_text}):
        reply = server.client.post("/api/chat", content=body, headers=headers)
        assert lines(reply)[-1]["done_reason"] == "stop"
    refused = server.client.post("/api/chat", content=body, headers={"content-type": "text/html"})
    assert refused.status_code == 415 and "application/json" in refused.json()["error"]
    foreign = {"content-type": "text/plain", "origin": "https://example.org"}
    assert server.client.post("/api/chat", content=body, headers=foreign).status_code == 403


@pytest.mark.parametrize(
    ("name", "base"),
    [("echo", ""), ("echo:latest", ""), (ECHO, "/v1"), (f"hf.co/{ECHO}:latest", "/ollama")],
)
def test_models_have_ollamas_names_too(server: EchoServer, name: str, base: str) -> None:
    body = {"model": name, "messages": RIVERS, "stream": False, "options": GREEDY}
    assert server.post(f"{base}/api/chat", body).json()["model"] == ECHO


def test_options_that_have_no_effect_are_named(server: EchoServer) -> None:
    options = {**GREEDY, "num_ctx": 2048, "mirostat": 2, "repeat_last_n": 64, "num_gpu": 0}
    reply = chat(server, options=options)
    assert ignored(reply) == "options.mirostat, options.repeat_last_n, options.num_gpu"
    assert ignored(chat(server, options={**GREEDY, "num_ctx": 2049})) == "options.num_ctx"


def test_options_are_the_parameters_of_other_apis(server: EchoServer) -> None:
    assert chat(server, options={"temperature": 0, "num_predict": 4}).json()["done_reason"] == (
        "length"
    )
    stopped = chat(server, options={**GREEDY, "stop": ["riv"]}).json()
    assert stopped["message"]["content"] == ASKED.partition("riv")[0]
    assert stopped["done_reason"] == "stop"
    # Without a limit of Ollama's, that of the model's entry holds.
    long = [{"role": "user", "content": "x" * 100}]
    assert (
        chat(server, messages=long, options={"temperature": 0, "num_predict": -1}).json()[
            "eval_count"
        ]
        == 64
    )
    same = {"temperature": 2, "top_p": 0.99, "top_k": -1, "min_p": 0.01, "repeat_penalty": 1.3}
    options = {**same, "presence_penalty": 0.5, "frequency_penalty": 0.1, "seed": 7}
    fields = {key: value for key, value in options.items()} | {"max_tokens": 40}
    other = server.post("/v1/chat/completions", {"model": "echo", "messages": RIVERS, **fields})
    answer = chat(server, options={**options, "num_predict": 40})
    assert ignored(answer) is None
    assert answer.json()["message"]["content"] == other.json()["choices"][0]["message"]["content"]


def test_what_a_request_leaves_out_is_as_in_ollama(server: EchoServer) -> None:
    ours = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
    answers = [
        chat(server, options={"seed": 5, "num_predict": 40, **given}).json()["message"]["content"]
        for given in ({}, ours, {"temperature": 1, "top_k": 0, "top_p": 1})
    ]
    assert answers[0] == answers[1] != answers[2]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"options": {"temperature": 9}}, "`options.temperature`"),
        ({"options": {"num_predict": "ten"}}, "`options.num_predict`"),
        ({"options": {"stop": 1}}, "`options.stop`"),
        ({"format": "yaml"}, "a JSON Schema"),
        ({"think": "somewhat"}, "`think`"),
        ({"keep_alive": "soon"}, "5m"),
        ({"keep_alive": "5 m"}, "5m"),
        ({"messages": [{"role": "friend", "content": "Hi"}]}, "none of assistant"),
        ({"tools": [{"type": "function", "function": {}}]}, "valid function name"),
        ({"top_logprobs": 21}, "`top_logprobs`"),
    ],
)
def test_a_mistake_is_named_in_ollamas_form(
    server: EchoServer, fields: dict[str, Any], words: str
) -> None:
    reply = chat(server, **fields)
    assert reply.status_code == 400 and reply.json().keys() == {"error"}
    assert words in reply.json()["error"]


def test_unknown_models_and_absent_files_are_what_clients_pull(server: EchoServer) -> None:
    for name in ("nobody", "absent"):
        reply = chat(server, model=name)
        assert reply.status_code == 404
        assert f"model '{name}' not found, try pulling it first" in reply.json()["error"]
    assert chat(server, model="damaged").status_code == 503
    assert "is an embedding model" in chat(server, model="vectors").json()["error"]


def test_a_format_is_enforced(server: EchoServer) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    options = {"temperature": 0, "num_predict": 200}
    said = chat(server, format=schema, options=options).json()["message"]["content"]
    assert json.loads(said).keys() == {"n"}
    said = generate(server, format="json", options=options).json()["response"]
    assert said.startswith("{")
    raw = generate(server, format=schema, raw=True, options=options).json()["response"]
    assert json.loads(raw).keys() == {"n"}


ARGUMENTS = {"city": "Rome", "unit": "celsius"}
CALL = json.dumps({"name": "get_weather", "arguments": ARGUMENTS})


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_comes_whole(server: EchoServer, stream: bool) -> None:
    messages = [{"role": "user", "content": f"<tool_call>\n{CALL}\n</tool_call>"}]
    options = {"temperature": 0, "num_predict": 300}
    reply = chat(server, messages=messages, tools=[TOOL], options=options, stream=stream)
    replies = lines(reply) if stream else [reply.json()]
    calls = [call for one in replies for call in one["message"].get("tool_calls", [])]
    assert [call["function"] for call in calls] == [{"name": "get_weather", "arguments": ARGUMENTS}]
    assert calls[0]["id"].startswith("call_") and replies[-1]["done_reason"] == "stop"
    assert "".join(one["message"]["content"] for one in replies) == ""


def test_calls_and_their_results_are_read(server: EchoServer) -> None:
    function = {"name": "get_weather", "arguments": {"city": "Rome"}}
    messages = [
        *RIVERS,
        {"role": "assistant", "content": "", "tool_calls": [{"function": function}]},
        {"role": "tool", "content": "Sunny.", "tool_name": "get_weather"},
        {"role": "user", "content": "So?"},
    ]
    reply = chat(server, messages=messages, tools=[TOOL])
    assert ignored(reply) is None and reply.json()["message"]["content"] == "So?"


def test_thinking_stands_apart(server: EchoServer) -> None:
    messages = [{"role": "user", "content": "hm</think>Yes"}]
    answer = chat(server, model="thinker", messages=messages).json()
    assert answer["message"] == {"role": "assistant", "content": "Yes", "thinking": "hm"}
    parts = lines(chat(server, model="thinker", messages=messages, stream=True))
    assert "".join(part["message"].get("thinking", "") for part in parts) == "hm"
    assert "".join(part["message"]["content"] for part in parts) == "Yes"
    answer = generate(server, model="thinker", prompt="hm</think>Yes").json()
    assert (answer["thinking"], answer["response"]) == ("hm", "Yes")
    direct = chat(server, model="thinker", think=False)
    assert direct.json()["message"] == {"role": "assistant", "content": ASKED}


def test_think_is_named_where_the_template_does_not_know_it(server: EchoServer) -> None:
    assert ignored(chat(server, think=True)) == ignored(chat(server, think="max")) == "think"
    assert ignored(chat(server, think=False)) is None
    assert ignored(chat(server, model="thinker", think=True)) is None


def test_images_are_refused_where_they_are_asked_about(server: EchoServer) -> None:
    seen = {"role": "user", "content": "Look!", "images": ["aGk=", "aGk="]}
    refused = chat(server, messages=[seen])
    assert refused.status_code == 400 and "text only" in refused.json()["error"]
    assert generate(server, images=["aGk="]).status_code == 400
    later = chat(server, messages=[seen, {"role": "assistant", "content": "Oh."}, *RIVERS])
    assert ignored(later) == "messages[0].images"


def test_logprobs_are_those_of_other_apis(server: EchoServer) -> None:
    answer = chat(server, logprobs=True, top_logprobs=2, options={**GREEDY, "seed": 1}).json()
    body = {"model": "echo", "messages": RIVERS, "logprobs": True, "top_logprobs": 2}
    body |= {"temperature": 0, "max_tokens": 60}
    other = server.post("/v1/chat/completions", body).json()["choices"][0]["logprobs"]["content"]
    assert answer["logprobs"] == other and len(other) == len(ASKED)
    parts = lines(chat(server, logprobs=True, top_logprobs=2, stream=True))
    assert [one for part in parts for one in part.get("logprobs", [])] == other
    alone = chat(server, top_logprobs=2)
    assert ignored(alone) == "top_logprobs" and "logprobs" not in alone.json()


def test_a_prompt_is_a_message_unless_it_is_raw(server: EchoServer) -> None:
    answer = generate(server, system="Be brief.").json()
    assert (answer["response"], answer["done_reason"]) == (ASKED, "stop")
    body = {"model": "echo", "messages": [{"role": "system", "content": "Be brief."}, *RIVERS]}
    other = server.post("/v1/chat/completions", body | {"temperature": 0}).json()
    assert answer["prompt_eval_count"] == other["usage"]["prompt_tokens"]
    raw = generate(server, prompt="to be\n", raw=True).json()
    assert raw["response"] == "to be" and raw["prompt_eval_count"] == 6
    assert "context" not in raw
    parts = lines(generate(server, prompt="to be\n", raw=True, stream=True))
    assert "".join(part["response"] for part in parts) == "to be"


def test_a_context_is_gone_on_from(server: EchoServer) -> None:
    first = generate(server, prompt="I am Ada.").json()
    then = generate(server, prompt="Who am I?", context=first["context"]).json()
    assert then["response"] == "Who am I?"
    assert then["context"][: len(first["context"])] == first["context"]
    count = first["prompt_eval_count"]
    assert len(first["context"]) == count + len("I am Ada.")
    assert then["prompt_eval_count"] == len(first["context"]) + count
    wrong = generate(server, context=[99_999])
    assert wrong.status_code == 400 and "99999" in wrong.json()["error"]
    long = generate(server, context=[1] * 2048)
    assert long.status_code == 400 and "maximum context length" in long.json()["error"]


def test_a_suffix_is_for_models_that_fill_in(server: EchoServer) -> None:
    filled = generate(server, model="filler", prompt="def f(", suffix="return 1")
    assert filled.status_code == 200 and "context" not in filled.json()
    refused = generate(server, suffix="return 1")
    assert refused.status_code == 400 and "fill-in-the-middle" in refused.json()["error"]
    for field in (
        {"system": "Hi"}, {"context": [1]}, {"template": "{{ .Prompt }}"}, {"images": ["aGk="]},
    ):  # fmt: skip
        wrong = generate(server, raw=True, **field)
        assert wrong.status_code == 400 and "raw is true" in wrong.json()["error"]
    assert ignored(generate(server, template="{{ .Prompt }}")) == "template"


def test_a_prompt_that_does_not_fit_is_refused(server: EchoServer) -> None:
    reply = chat(server, messages=[{"role": "user", "content": "x" * 3000}])
    assert reply.status_code == 400 and "2048 tokens" in reply.json()["error"]


def test_usage_is_charged_as_anywhere(server: EchoServer) -> None:
    def cost() -> float:
        found = [
            line for line in server.client.get("/metrics").text.splitlines()
            if line.startswith("localinfra_cost") and ECHO in line
        ]  # fmt: skip
        return sum(float(line.rpartition(" ")[2]) for line in found)

    before = cost()
    used = chat(server).json()
    spent = (used["prompt_eval_count"] * 1.0 + used["eval_count"] * 2.0) / 1e6
    assert cost() - before == pytest.approx(spent)


def test_a_client_that_leaves_frees_its_place(server: EchoServer) -> None:
    body = {"model": "slow", "messages": [{"role": "user", "content": "x" * 1000}]}
    with server.cut_short(900), server.client.stream("POST", "/api/chat", json=body) as reply:
        next(reply.iter_lines())
