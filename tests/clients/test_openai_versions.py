"""What the documents of hosted services tell their users to run, with clients of several years.

Each client lives in an environment of its own; only base URL and key are ours. The server knows
the model names that such examples use as aliases.
"""

import json
import subprocess
from collections.abc import Callable

import pytest
from client_env import Environment
from live import Served

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

CLIENTS = {"0.28": ["openai==0.28.1"], "1.12": ["openai==1.12.0", "httpx<0.28"], "new": ["openai"]}


PLACES = [  # of the API, and a name that the server knows a model by
    ("/v1/openai", "meta-llama/Meta-Llama-3-8B-Instruct"),
    ("/inference-api/openai/v1", "meta-llama/Meta-Llama-3.1-8B-Instruct"),
    ("/v1", "HuggingFaceTB/SmolLM2-135M-Instruct"),
]

MODERN = """
import itertools, openai

def ask(client, model, stream):
    answer = client.chat.completions.create(
        model=model,
        messages=[
            dict(role="system", content="You are a terse guide."),
            dict(role="user", content="Where is the river?"),
            dict(role="assistant", content="Behind the hill."),
            dict(role="user", content="And the bridge?"),
        ],
        stream=stream, max_tokens=20,
    )
    if stream:
        for event in answer:
            choice = event.choices[0]
            if choice.finish_reason:
                usage = event.usage if isinstance(event.usage, dict) else event.usage.model_dump()
                print(choice.finish_reason, usage["prompt_tokens"], usage["completion_tokens"])
            else:
                print(choice.delta.content or "")
    else:
        print(answer.choices[0].finish_reason, answer.usage.total_tokens)
        print(answer.choices[0].message.content)
    text = client.completions.create(
        model=model, prompt="<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n",
        stop=["<|im_end|>"], stream=stream, max_tokens=20,
    )
    for event in text if stream else [text]:
        print(event.choices[0].text, event.choices[0].finish_reason or "")
    assert "<|im_end|>" not in str(text)

for (path, model), stream in itertools.product({places!r}, [True, False]):
    ask(openai.OpenAI(api_key="any", base_url={url!r} + path), model, stream)
    print("answered", path, stream)
"""


@pytest.mark.parametrize("name", ["1.12", "new"])
def test_clients_since_version_1(
    server: Served, python: Callable[..., Environment], name: str
) -> None:
    program = MODERN.format(url=server.url, places=PLACES)
    out = python(*CLIENTS[name]).run(program)
    assert "stop" in out or "length" in out
    assert out.count("answered") == 2 * len(PLACES)


RESUMED = """
import openai
client = openai.OpenAI(api_key="any", base_url={base!r}, max_retries=0)
seen = []
stream = client.responses.create(
    model={model!r}, input="Tell me of rivers.", background=True, stream=True, max_output_tokens=40
)
for event in stream:
    seen.append(event)
    if event.type == "response.output_text.delta":
        stream.close()
        break
id = seen[0].response.id
seen += client.responses.retrieve(id, stream=True, starting_after=seen[-1].sequence_number)
assert [event.sequence_number for event in seen] == list(range(len(seen)))
text = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
whole = client.responses.retrieve(id)
assert whole.output_text == text and whole.status in ("completed", "incomplete"), whole
assert client.responses.cancel(id).status == whole.status
print(len(seen), "events, each once")
"""


def test_a_broken_stream_is_resumed(server: Served, python: Callable[..., Environment]) -> None:
    model = "HuggingFaceTB/SmolLM2-135M-Instruct"
    out = python(*CLIENTS["new"]).run(RESUMED.format(base=server.url + "/v1", model=model))
    assert "events, each once" in out


LEGACY = """
import openai
openai.api_key = "any"
openai.api_base = {base!r}
for stream in True, False:
    answer = openai.ChatCompletion.create(
        model="meta-llama/Llama-2-70b-chat-hf",
        messages=[dict(role="user", content="Good morning")], stream=stream, max_tokens=20,
    )
    for event in answer if stream else [answer]:
        print(event.choices)
text = openai.Completion.create(
    engine={model!r}, prompt="1, 2, 3, 4, 5, 6, 7,", max_tokens=3, temperature=0
)
print(text.choices[0].text)
print(openai.Model.retrieve({model!r})["id"])
try:
    openai.ChatCompletion.create(model="nothing", messages=[dict(role="user", content="x")])
except openai.error.InvalidRequestError as error:
    print("refused:", error)
"""


def test_clients_before_version_1(server: Served, python: Callable[..., Environment]) -> None:
    program = LEGACY.format(
        base=server.url + "/v1/openai", model="HuggingFaceTB/SmolLM2-135M-Instruct"
    )
    out = python(*CLIENTS["0.28"]).run(program)
    assert " 8," in out and "refused: The model 'nothing'" in out


@pytest.mark.parametrize("stream", [True, False])
def test_curl(server: Served, stream: bool) -> None:
    body = {
        "model": "codellama/CodeLlama-70b-Instruct-hf", "stream": stream, "max_tokens": 10,
        "messages": [{"role": "user", "content": "Good morning!"}],
    }  # fmt: skip
    out = subprocess.run(
        ["curl", "-sN", f"{server.url}/v1/openai/chat/completions", "-H",
         "Content-Type: application/json", "-H", "Authorization: Bearer any", "-d",
         json.dumps(body)],
        capture_output=True, text=True, timeout=600, check=True,
    ).stdout  # fmt: skip
    assert out.endswith("data: [DONE]\n\n") if stream else json.loads(out)["usage"]
