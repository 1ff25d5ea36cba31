"""Anthropic's own client in the versions of several years, each in an environment of its own.

The key is asked for: earlier clients send it as x-api-key, newer ones as a bearer.
"""

import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import CATALOGUE, LiveServer

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
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    path = tmp_path_factory.mktemp("models") / "models.toml"
    (path.parent / "damaged.gguf").write_bytes(b"")
    path.write_text(f'[server]\napi_keys = ["sk-here"]\n{CATALOGUE}')
    server = LiveServer(path)
    yield server
    server.close()


@pytest.mark.parametrize("name", CLIENTS)
def test_clients_of_all_years(server: LiveServer, name: str, tmp_path: Path) -> None:
    venv.create(tmp_path, with_pip=True)
    python = tmp_path / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", *CLIENTS[name]], check=True)
    program = PROGRAM.format(base=server.url, key="sk-here")
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "missing: " in done.stdout and "The model 'nothing' does not exist" in done.stdout
    assert "refused: " in done.stdout and "authentication_error" in done.stdout
