"""Anthropic's own client in the versions of several years, each in an environment of its own.

The key is asked for: earlier clients send it as x-api-key, newer ones as a bearer.
"""

from collections.abc import Callable, Iterator

import pytest
from client_env import Environment
from live import CATALOGUE, LiveServer, Served
from ray_process import RayServer

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

CLIENTS = {
    "0.34": ["anthropic==0.34.0", "httpx<0.28"],
    "0.125": ["anthropic==0.125.0"],
    "new": ["anthropic"],
}

PROGRAM = """
import anthropic
client = anthropic.Anthropic(api_key={key!r}, base_url={base!r}, max_retries=0)
fields = dict(
    model="smollm2", max_tokens=30, system="Be brief.",
    messages=[dict(role="user", content="Where is the river?")], extra_body=dict(temperature=0),
)
whole = client.messages.create(**fields)
with client.messages.stream(**fields) as stream:
    text = "".join(stream.text_stream)
assert text == whole.content[0].text == stream.get_final_message().content[0].text
assert stream.get_final_message().stop_reason == whole.stop_reason
assert sum(whole.usage.model_dump()[f"{{kind}}_tokens"] for kind in ("input", "output")) > 0
tool = dict(name="cross", input_schema=dict(
    type="object", properties=dict(bridge=dict(enum=["old", "new"])), required=["bridge"],
))
asked = dict(fields, max_tokens=200, tools=[tool], tool_choice=dict(type="tool", name="cross"))
called = client.messages.create(**asked)
with client.messages.stream(**asked) as stream:
    streamed = stream.get_final_message()
for message in (called, streamed):
    assert message.stop_reason == "tool_use"
    assert message.content[0].input["bridge"] in ("old", "new")
try:
    client.messages.create(**dict(fields, model="nothing"))
except anthropic.NotFoundError as error:
    print("missing:", error)
try:
    anthropic.Anthropic(api_key="wrong", base_url={base!r}).messages.create(**fields)
except anthropic.AuthenticationError as error:
    print("refused:", error)
"""


@pytest.fixture(scope="module")
def locked(server: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of one that asks for a key."""
    if isinstance(server, RayServer):
        with server.asking_for("sk-here"):
            yield server.url
        return
    path = tmp_path_factory.mktemp("locked") / "models.toml"
    path.write_text(f'[server]\napi_keys = ["sk-here"]\n{CATALOGUE}')
    alone = LiveServer(path)
    yield alone.url
    alone.close()


@pytest.mark.parametrize("name", CLIENTS)
def test_clients_of_all_years(locked: str, python: Callable[..., Environment], name: str) -> None:
    out = python(*CLIENTS[name]).run(PROGRAM.format(base=locked, key="sk-here"))
    assert "missing: " in out and "The model 'nothing' does not exist" in out
    assert "refused: " in out and "authentication_error" in out


NODE = """
import Anthropic from "@anthropic-ai/sdk";
const client = new Anthropic({ baseURL: process.env.BASE, apiKey: "sk-here", maxRetries: 0 });
const bridge = { enum: ["old", "new"] };
const fields = {
  model: "smollm2", max_tokens: 200, messages: [{ role: "user", content: "Cross the river." }],
  tools: [{ name: "cross", input_schema: { type: "object", properties: { bridge } } }],
};
const stream = client.messages.stream({ ...fields, tool_choice: { type: "none" } });
let text = "";
stream.on("text", (part) => (text += part));
const said = await stream.finalMessage();
const choice = { type: "tool", name: "cross" };
const called = await client.messages.stream({ ...fields, tool_choice: choice }).finalMessage();
console.log(text === said.content[0].text, called.stop_reason, called.content[0].type);
await client.messages.create({ ...fields, model: "nothing" }).catch((error) => {
  console.log(error.constructor.name, error.error.error.message, Boolean(error.requestID));
});
"""


def test_the_client_for_node(locked: str, node: Callable[..., Environment]) -> None:
    [said, missing] = node("@anthropic-ai/sdk").run(NODE, BASE=locked).splitlines()
    assert said == "true tool_use tool_use"
    assert missing.startswith("NotFoundError The model 'nothing' does not exist.")
    assert missing.endswith(" true")
