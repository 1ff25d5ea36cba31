"""Ollama's own clients, for Python and for Node, each in an environment of its own."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from client_env import Environment
from live import SMOLLM2, Served

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

PYTHON = """
import json, os
import ollama

client = ollama.Client(os.environ["BASE"])
asked = [dict(role="user", content="Name three rivers.")]
options = dict(temperature=0, num_predict=30, seed=1, num_ctx=2048)

def weather(city: str) -> str:
    '''The weather of a city.

    Args:
        city: its name
    '''

whole = client.chat("smollm2", asked, options=options, keep_alive="10m")
parts = list(client.chat("smollm2", asked, options=options, stream=True))
assert "".join(part.message.content for part in parts) == whole.message.content
assert parts[-1].done and parts[-1].eval_count == whole.eval_count
text = client.generate("smollm2:latest", "Name three rivers.", options=options)
assert text.response == whole.message.content
then = client.generate("smollm2", "And lakes?", context=text.context, options=options)
schema = dict(type="object", properties=dict(name=dict(enum=["Rhine", "Elbe"])), required=["name"])
formed = client.chat("smollm2", asked, format=schema, options=options)
called = client.chat(
    "smollm2", [dict(role="user", content="What is the weather in Rome?")], tools=[weather],
    options=options,
)
result = dict(role="tool", tool_name="weather", content="Sunny.")
call = dict(function=dict(name="weather", arguments=dict(city="Rome")))
after = client.chat(
    "smollm2", [*asked, dict(role="assistant", tool_calls=[call]), result], tools=[weather],
    options=options,
)
thought = client.chat("thinker", asked, think=True, options=options)
vectors = client.embed("minilm", ["a river", "a hill"])
errors = []
for name in ("nothing", "absent"):
    try:
        list(client.chat(name, asked, stream=True))
    except ollama.ResponseError as error:
        errors.append([error.status_code, error.error])
try:
    client.chat("smollm2", asked, options=dict(temperature=9))
except ollama.ResponseError as error:
    errors.append([error.status_code, error.error])
running = {model.model: model for model in client.ps().models}
shown = client.show("smollm2")
unloaded = client.generate("thinker", keep_alive=0)
print(json.dumps(dict(
    content=whole.message.content,
    then=then.prompt_eval_count - text.prompt_eval_count,
    formed=formed.message.content,
    called=[dict(call.function) for call in called.message.tool_calls or ()],
    after=after.done_reason,
    thinking=thought.message.thinking,
    vectors=[len(vector) for vector in vectors.embeddings],
    old=len(client.embeddings("minilm", "a river").embedding),
    errors=errors,
    listed=[model.model for model in client.list().models],
    running=sorted(running),
    capabilities=shown.capabilities,
    context_length=shown.modelinfo["llama.context_length"],
    unloaded=[unloaded.done_reason, [model.model for model in client.ps().models]],
)))
"""


@pytest.fixture(scope="module")
def greedy(server: Served) -> str:
    """What every client is to get."""
    messages = [{"role": "user", "content": "Name three rivers."}]
    body = {"model": "smollm2", "messages": messages, "temperature": 0, "max_tokens": 30}
    answer = server.post("/v1/chat/completions", body).json()
    content: str = answer["choices"][0]["message"]["content"]
    return content


def test_ollama_for_python(server: Served, python: Callable[..., Environment], greedy: str) -> None:
    got: Any = json.loads(python("ollama").run(PYTHON, BASE=server.url))
    assert got["content"] == greedy and got["then"] > 30
    assert json.loads(got["formed"])["name"] in ("Rhine", "Elbe")
    assert all(call["name"] == "weather" for call in got["called"])
    assert got["after"] in ("stop", "length") and got["thinking"]
    assert got["vectors"] == [384, 384] and got["old"] == 384
    unknown, absent, wrong = got["errors"]
    assert unknown[0] == absent[0] == 404 and wrong[0] == 400
    assert "try pulling it first" in absent[1] and "options.temperature" in wrong[1]
    assert {SMOLLM2, "thinker"} <= {*got["listed"]} and "absent" not in got["listed"]
    assert {SMOLLM2, "thinker"} <= {*got["running"]}
    assert "completion" in got["capabilities"] and got["context_length"] == 2048
    assert got["unloaded"][0] == "unload" and "thinker" not in got["unloaded"][1]


NODE = """
import { Ollama } from "ollama";

const client = new Ollama({ host: process.env.BASE });
const messages = [{ role: "user", content: "Name three rivers." }];
const options = { temperature: 0, num_predict: 30, seed: 1 };
const whole = await client.chat({ model: "smollm2", messages, options });
let streamed = "", last;
for await (const part of await client.chat({ model: "smollm2", messages, options, stream: true })) {
  streamed += part.message.content;
  last = part;
}
const generated = await client.generate({ model: "smollm2", prompt: messages[0].content, options });
const format = { type: "object", properties: { n: { type: "integer" } }, required: ["n"] };
const formed = await client.chat({ model: "smollm2", messages, options, format });
const vectors = await client.embed({ model: "minilm", input: ["a river", "a hill"] });
const left = await client.generate({
  model: "smollm2", prompt: "x", raw: true, stream: true, options: { num_predict: 2000 },
});
let aborted = "";
try {
  for await (const part of left) left.abort();
} catch (error) {
  aborted = error.name;
}
let refused;
try {
  await client.chat({ model: "nothing", messages, stream: true });
} catch (error) {
  refused = [error.status_code, error.message];
}
console.log(JSON.stringify({
  content: whole.message.content,
  streamed,
  last: [last.done, last.done_reason, last.eval_count === whole.eval_count],
  generated: generated.response,
  formed: formed.message.content,
  vectors: vectors.embeddings.map((vector) => vector.length),
  aborted,
  refused,
  listed: (await client.list()).models.map((model) => model.name),
  running: (await client.ps()).models.map((model) => new Date(model.expires_at).getTime()),
  capabilities: (await client.show({ model: "smollm2" })).capabilities,
  version: (await client.version()).version,
}));
"""


def test_ollama_for_node(server: Served, node: Callable[..., Environment], greedy: str) -> None:
    got: Any = json.loads(node("ollama").run(NODE, BASE=server.url))
    assert got["content"] == got["streamed"] == got["generated"] == greedy
    assert got["last"][0] and got["last"][2]
    assert json.loads(got["formed"]).keys() == {"n"}
    assert got["vectors"] == [384, 384]
    assert got["aborted"] == "AbortError"
    assert got["refused"][0] == 404 and "try pulling it first" in got["refused"][1]
    assert SMOLLM2 in got["listed"] and got["running"] and "completion" in got["capabilities"]
    assert got["version"][0].isdigit()
    server.wait_until_idle()
