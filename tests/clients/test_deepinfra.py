"""Clients made for DeepInfra: its own for Node, Vercel's AI SDK, LangChain's and litellm's classes.

The server knows the model names that their documents use as aliases.
"""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from client_env import Environment
from live import Served

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

LLAMA = "meta-llama/Meta-Llama-3-8B-Instruct"
PROMPT = "<|im_start|>user\nName a color.<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def greedy_text(server: Served) -> str:
    """What every client is to get for the prompt, at temperature 0 and 12 tokens."""
    body = {"model": LLAMA, "prompt": PROMPT, "max_tokens": 12, "temperature": 0, "seed": 1}
    text: str = server.post("/v1/completions", body).json()["choices"][0]["text"]
    assert text
    return text


def answers(output: str) -> dict[str, Any]:
    """A program's last line."""
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


# npm deepinfra. A model's name that is a URL is the endpoint itself; Sdxl has its name built in.

DEEPINFRA = """
import deepinfra from "deepinfra";
const { Embeddings, Sdxl, TextGeneration, TextToImage } = deepinfra;
const { base, llama, prompt } = JSON.parse(process.env.GIVEN);
const wanted = { input: prompt, stop: ["<|im_end|>"], max_new_tokens: 12, temperature: 0, seed: 1 };

const text = new TextGeneration(`${base}/${llama}`, "any");
const embeddings = new Embeddings(`${base}/BAAI/bge-large-en-v1.5`, "any");
const images = new TextToImage(`${base}/black-forest-labs/FLUX-1-schnell`, "any");
Object.defineProperty(Sdxl, "modelName", { value: `${base}/${Sdxl.modelName}` });
const sdxl = await new Sdxl("any").generate({ input: { prompt: "a burger", seed: 1 } });
const picture = await fetch(sdxl.output[0]);

console.log(JSON.stringify({
  text: await text.generate(wanted),
  stream: await text.generate({ ...wanted, stream: true }),
  embeddings: await embeddings.generate({ inputs: ["a river", "a hill"], normalize: true }),
  images: await images.generate({ prompt: "a burger", width: 64, height: 128, num_images: 2 }),
  sdxl: [picture.headers.get("content-type"), (await picture.arrayBuffer()).byteLength],
}));
"""


def test_deepinfra_for_node(
    server: Served, node: Callable[..., Environment], greedy_text: str
) -> None:
    given = {"base": f"{server.url}/v1/inference", "llama": LLAMA, "prompt": PROMPT}
    got = answers(node("deepinfra").run(DEEPINFRA, GIVEN=json.dumps(given)))
    assert got["text"]["results"] == [{"generated_text": greedy_text}]
    assert got["text"]["inference_status"]["status"] == "succeeded"
    assert got["stream"].endswith("data: [DONE]\n\n") and "generated_text" in got["stream"]
    assert [len(vector) for vector in got["embeddings"]["embeddings"]] == [384, 384]
    assert got["embeddings"]["input_tokens"] > 0
    assert [url[:22] for url in got["images"]["images"]] == ["data:image/png;base64,"] * 2
    assert got["images"]["nsfw_content_detected"] == [False, False]
    assert got["sdxl"][0] == "image/png" and got["sdxl"][1] > 1000


# Multipart as the same package sends it: the class for speech recognition has text fields and one
# binary part; models of that kind are not served, so its request is read by a text model.

MULTIPART = """
import deepinfra from "deepinfra";
const { base, llama, prompt } = JSON.parse(process.env.GIVEN);
const model = new deepinfra.AutomaticSpeechRecognition(`${base}/${llama}`, "any");
const wanted = { input: prompt, max_new_tokens: 12, temperature: 0, stop: ["<|im_end|>"], seed: 1 };
console.log(JSON.stringify(await model.generate({ ...wanted, audio: Buffer.from([0, 255]) })));
"""


def test_multipart_of_deepinfra_for_node(
    server: Served, node: Callable[..., Environment], greedy_text: str
) -> None:
    given = {"base": f"{server.url}/v1/inference", "llama": LLAMA, "prompt": PROMPT}
    got = answers(node("deepinfra").run(MULTIPART, GIVEN=json.dumps(given)))
    assert got["results"] == [{"generated_text": greedy_text}]


def test_multipart_of_curl(server: Served, greedy_text: str) -> None:
    fields = {"input": PROMPT, "max_new_tokens": 12, "temperature": 0, "seed": 1}
    command = ["curl", "-sS", f"{server.url}/v1/inference/{LLAMA}", "-H", "Authorization: bearer x"]
    for name, value in fields.items():
        command += ["--form-string", f"{name}={value}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout)["results"] == [{"generated_text": greedy_text}]


# Vercel's AI SDK: chat and embeddings at /openai, images at /inference.

AI_SDK = """
import { createDeepInfra } from "@ai-sdk/deepinfra";
import { embedMany, generateImage, generateText, streamText } from "ai";
const { base, llama } = JSON.parse(process.env.GIVEN);
const deepinfra = createDeepInfra({ baseURL: base, apiKey: "any" });
const model = deepinfra(llama);
const wanted = { model, prompt: "Name a color.", temperature: 0, maxOutputTokens: 12, seed: 1 };

const { text, usage, finishReason } = await generateText(wanted);
const stream = streamText(wanted);
let streamed = "";
for await (const part of stream.textStream) streamed += part;
const { embeddings } = await embedMany({
  model: deepinfra.textEmbeddingModel("BAAI/bge-large-en-v1.5"), values: ["a river", "a hill"],
});
const { images } = await generateImage({
  model: deepinfra.image("black-forest-labs/FLUX-1-schnell"), prompt: "a burger", n: 2,
  size: "64x128",
});
console.log(JSON.stringify({
  text, streamed, finishReason, total: usage.totalTokens,
  streamedTotal: (await stream.usage).totalTokens,
  sizes: embeddings.map((vector) => vector.length),
  images: images.map((image) => [image.mediaType, image.uint8Array.length]),
}));
"""


def test_the_ai_sdk(server: Served, node: Callable[..., Environment]) -> None:
    given = {"base": f"{server.url}/v1", "llama": LLAMA}
    got = answers(node("ai", "@ai-sdk/deepinfra").run(AI_SDK, GIVEN=json.dumps(given)))
    assert got["text"] == got["streamed"] != ""
    assert got["finishReason"] in ("stop", "length") and got["total"] == got["streamedTotal"] > 12
    assert got["sizes"] == [384, 384]
    for media_type, size in got["images"]:
        assert media_type == "image/png" and size > 1000


# LangChain. The host is written into two of its classes, so requests to it are sent here.

LANGCHAIN = """
import json, os, warnings
warnings.simplefilter("ignore")
import requests
from langchain_community.chat_models import ChatDeepInfra
from langchain_community.embeddings import DeepInfraEmbeddings
from langchain_community.llms import DeepInfra

given = json.loads(os.environ["GIVEN"])
post = requests.post
HOST = "https://api.deepinfra.com"
requests.post = lambda url, **options: post(url.replace(HOST, given["base"]), **options)

kwargs = {"temperature": 0, "max_new_tokens": 12, "seed": 1}
llm = DeepInfra(model_id=given["llama"], deepinfra_api_token="any", model_kwargs=kwargs)
text = llm.invoke(given["prompt"])
streamed = "".join(llm.stream(given["prompt"]))
regex = {"type": "regex", "regex": "an error occurred"}
error = "".join(llm.bind(response_format=regex).stream("Well, "))

embedder = DeepInfraEmbeddings(model_id="BAAI/bge-large-en-v1.5", deepinfra_api_token="any")
vectors = embedder.embed_documents(["a river", "a hill"]) + [embedder.embed_query("a river")]

chat = ChatDeepInfra(
    model=given["llama"], url=given["base"] + "/v1/openai/chat/completions",
    deepinfra_api_token="any", temperature=0, max_tokens=12, model_kwargs={"seed": 1},
)
said = chat.invoke("Name a color.").content
chunks = "".join(chunk.content for chunk in chat.stream("Name a color."))
try:
    DeepInfra(model_id="nothing", deepinfra_api_token="any").invoke("x")
except Exception as failed:
    refused = str(failed)
print(json.dumps({
    "text": text, "streamed": streamed, "error": error, "sizes": [len(v) for v in vectors],
    "said": said, "chunks": chunks, "refused": refused,
}))
"""


def test_langchain(server: Served, python: Callable[..., Environment], greedy_text: str) -> None:
    given = {"base": server.url, "llama": LLAMA, "prompt": PROMPT}
    langchain = python("langchain-community", "aiohttp", "requests", "numpy")
    got = answers(langchain.run(LANGCHAIN, GIVEN=json.dumps(given)))
    assert got["text"] == got["streamed"] == greedy_text
    assert got["error"] == "an error occurred"  # a word it takes for a failure of the stream
    assert got["sizes"] == [384, 384, 384]
    assert got["said"] == got["chunks"] != ""
    assert "Model not found" in got["refused"]


# litellm. Both providers post to /chat/completions below the base URL.

LITELLM = """
import json, os
import litellm
given = json.loads(os.environ["GIVEN"])
messages = [{"role": "user", "content": "Name a color."}]
found = {}
for provider in ("deepinfra", "openai"):
    wanted = dict(
        model=f"{provider}/{given['llama']}", api_base=given["base"] + "/v1/openai",
        api_key="any", messages=messages, temperature=0, max_tokens=12, seed=1,
        allowed_openai_params=["seed"],  # which it thinks DeepInfra does not take
    )
    answer = litellm.completion(**wanted)
    stream = litellm.completion(**wanted, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    try:
        litellm.completion(**wanted | {"messages": [{"role": "user", "content": "word " * 5000}]})
    except litellm.ContextWindowExceededError as error:
        too_long = type(error).__name__
    text = answer.choices[0].message.content
    found[provider] = [text, streamed, answer.usage.completion_tokens, too_long]
vector = litellm.embedding(
    model="openai/BAAI/bge-large-en-v1.5", api_base=given["base"] + "/v1/openai", api_key="any",
    input=["a river"],
)
found["size"] = len(vector.data[0]["embedding"])
print(json.dumps(found))
"""


def test_litellm(server: Served, python: Callable[..., Environment]) -> None:
    given = {"base": server.url, "llama": LLAMA}
    output = python("litellm").run(
        LITELLM, GIVEN=json.dumps(given), LITELLM_LOCAL_MODEL_COST_MAP="True"
    )
    got = answers(output)
    for provider in ("deepinfra", "openai"):
        text, streamed, num_tokens, too_long = got[provider]
        assert text == streamed != "" and num_tokens <= 12
        assert too_long == "ContextWindowExceededError"
    assert got["size"] == 384


# npm openai, as the documents of hosted services show it.

OPENAI = """
import OpenAI from "openai";
const { base, llama, prompt } = JSON.parse(process.env.GIVEN);
const openai = new OpenAI({ baseURL: base, apiKey: "any" });
const messages = [{ role: "user", content: "Hello" }];
const wanted = { model: llama, temperature: 0, max_tokens: 12, seed: 1 };

const chat = await openai.chat.completions.create({ ...wanted, messages });
let streamed = "", usage;
for await (const chunk of await openai.chat.completions.create({
  ...wanted, messages, stream: true,
})) {
  if (chunk.choices[0].finish_reason) usage = chunk.usage;
  else streamed += chunk.choices[0].delta.content;
}
const text = await openai.completions.create({ ...wanted, prompt, stop: ["<|im_end|>"] });
const image = await openai.images.generate({ prompt: "An astronaut.", size: "64x64", n: 1 });
console.log(JSON.stringify({
  chat: chat.choices[0].message.content, streamed, usage,
  text: text.choices[0].text, image: image.data[0].b64_json.length,
}));
"""


def test_openai_for_node(
    server: Served, node: Callable[..., Environment], greedy_text: str
) -> None:
    given = {"base": f"{server.url}/v1/openai", "llama": LLAMA, "prompt": PROMPT}
    got = answers(node("openai").run(OPENAI, GIVEN=json.dumps(given)))
    assert got["chat"] == got["streamed"] != "" and got["usage"]["completion_tokens"] <= 12
    assert got["text"] == greedy_text and got["image"] > 1000
