"""Embeddings; models of all kinds that take turns in little memory; layers that stay on the CPU."""

import http.client
import json
import math
import statistics
import threading
import time
from pathlib import Path
from typing import Any

from benchlib import WORDS, Server, Unmeasurable, user, words

from gpucheck import shapes
from gpucheck.images import MISSING, make_tiny_flux
from gpucheck.rows import NO_GPU, Sheet
from gpucheck.speed import rate
from gpucheck.tools import (
    Surroundings,
    llama_serving,
    serving,
    text_model,
    used_gpu_bytes,
)

MIB = 1 << 20
SAME_DIRECTION = 0.999  # cosine of the device's vectors and the CPU's


def ask(server: Server, path: str, body: Any) -> Any:
    """Raises Unmeasurable unless the answer is a 200."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=240)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise Unmeasurable(f"{path}: {answer.status}: {data[:300]!r}")
    return json.loads(data)


# --- Embeddings -----------------------------------------------------------------------------------


def run_embeddings(around: Surroundings, sheet: Sheet) -> None:
    shape = shapes.SMALL_MINILM if around.is_quick else shapes.MINILM
    file = shapes.write_embedder(around.work / "minilm.gguf", shape, [*WORDS])
    texts = [words(f"text {at}", 60) for at in range(8 if around.is_quick else 128)]
    vectors: dict[str, list[list[float]]] = {}
    for name, device in (("localinfra", "auto"), ("localinfra, on the CPU", "cpu")):
        settings = f'[model.e]\nkind = "embedding"\nsource = "{file}"\ndevice = "{device}"\n'
        with serving(around, f"[server]\n{settings}", "e") as server:
            seconds, vectors[name] = embedded(server, "e", texts)
        sheet.add(f"MiniLM's shape: {name}", f"{len(texts) / seconds:.0f} texts/s")
    cosine = min(likeness(*pair) for pair in zip(*vectors.values(), strict=True))
    is_same = cosine >= SAME_DIRECTION
    where = "auto and the CPU" if around.gpu else "two loads on the CPU"
    text = f"cosine at least {cosine:.5f}"
    sheet.add(f"vectors of {where}", f"passed: {text}" if is_same else f"FAILED: {text}")
    if around.llama_server is None:
        sheet.add("MiniLM's shape: llama-server", "not run: there is no llama-server")
        return
    batch = ("--embedding", "-c", "16384", "-np", "32", "-b", "8192", "-ub", "8192")
    with llama_serving(around, file, *batch) as server:
        seconds, _ = embedded(server, "any", texts)
    sheet.add("MiniLM's shape: llama-server", f"{len(texts) / seconds:.0f} texts/s")


def embedded(server: Server, model: str, texts: list[str]) -> tuple[float, list[list[float]]]:
    """Seconds for all texts in one request, the median of three, and their vectors."""
    found = []
    for _ in range(4):
        begun = time.perf_counter()
        answer = ask(server, "/v1/embeddings", {"model": model, "input": texts})
        found.append(time.perf_counter() - begun)
    return statistics.median(found[1:]), [item["embedding"] for item in answer["data"]]


def likeness(one: list[float], other: list[float]) -> float:
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))


# --- One budget for models of all kinds ----------------------------------------------------------


def run_broker(around: Surroundings, sheet: Sheet) -> None:
    if around.vocabulary is None:
        sheet.add("models of all kinds in one budget", "not run: no words for a model")
        return
    shape = shapes.SMALL_SMOLLM2 if around.is_quick else shapes.SMOLLM2
    file = shapes.write(around.work / "broker.gguf", shape, around.vocabulary)
    embedder = shapes.write_embedder(around.work / "broker-e.gguf", shapes.SMALL_MINILM, [*WORDS])
    cells = 8192 if around.is_quick else 20_480
    tables = [
        text_model(name, file, context_length=8192, kv_cache_tokens=cells, parked_prefixes_mib=0)
        for name in ("one", "two")
    ]
    tables.append(f'[model.e]\nkind = "embedding"\nsource = "{embedder}"\n')
    kinds = ["one", "two", "e"]
    if not MISSING:
        folder = make_tiny_flux(around.work / "broker-flux")
        tables.append(f'[model.flux]\nkind = "image"\nsource = "{folder}"\n')
        kinds.append("flux")
    else:
        sheet.add("an image model among them", f"not run: {', '.join(MISSING)} not installed")
    size = "2GiB"
    before = used_gpu_bytes()
    settings = f'[server]\nmemory_budget = "{size}"\nswap_wait_s = 0.2\n' + "\n".join(tables)
    with serving(around, settings, "one") as server:
        watch = Watch()
        failures = take_turns(server, kinds, 3 if around.is_quick else 12)
        most = watch.stop()
    num_asked = len(kinds) * (3 if around.is_quick else 12)
    title = f"{num_asked} requests to {', '.join(kinds)} at once within {size}"
    sheet.add(title, f"FAILED: {failures[0]}" if failures else "passed: all were answered")
    taken = f"{max(0, most - before) / MIB:.0f} MiB" if around.gpu else NO_GPU
    sheet.add("the most that they took of the GPU", taken, size if around.gpu else "")


class Watch:
    """The most memory of the GPU that is in use while it runs."""

    def __init__(self) -> None:
        self._ends = threading.Event()
        self._most = 0
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._ends.wait(0.2):
            self._most = max(self._most, used_gpu_bytes())

    def stop(self) -> int:
        """Bytes."""
        self._ends.set()
        self._thread.join()
        return self._most


def take_turns(server: Server, kinds: list[str], count: int) -> list[str]:
    """Asks all models at once, each `count` times. Returns what went wrong."""
    failures: list[str] = []

    def work(kind: str) -> None:
        for at in range(count):
            try:
                ask(server, *request(kind, f"{kind} {at}"))
            except (Unmeasurable, OSError, ValueError) as error:
                failures.append(f"{kind}: {error}")

    threads = [threading.Thread(target=work, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def request(kind: str, seed: str) -> tuple[str, object]:
    """The path and body of a small request to a model of the kind."""
    if kind == "e":
        return "/v1/embeddings", {"model": kind, "input": words(seed, 20)}
    if kind == "flux":
        body = {"model": kind, "prompt": words(seed, 5), "size": "64x64", "num_inference_steps": 1}
        return "/v1/images/generations", body
    messages = [user(words(seed, 20))]
    return "/v1/chat/completions", {"model": kind, "messages": messages, "max_tokens": 8}


# --- Layers on the GPU and on the CPU ------------------------------------------------------------


def run_layers(around: Surroundings, sheet: Sheet) -> None:
    """All layers, half of them and none; then as many as a budget leaves room for."""
    if around.vocabulary is None:
        sheet.add("layers", "not run: no words for a model")
        return
    shape = shapes.SMALL_SMOLLM2 if around.is_quick else shapes.SMOLLM2
    file = shapes.write(around.work / "layers.gguf", shape, around.vocabulary)
    for layers in (0, shape.layers // 2, shape.layers + 1):
        title = f"{layers} of {shape.layers + 1} layers on the GPU, 1 stream"
        if layers and not around.gpu:
            sheet.add(title, NO_GPU)
            continue
        sheet.add(title, layered(around, file, gpu_layers=layers))
    if not around.gpu:
        sheet.add("as many layers as fit a budget", NO_GPU)
        return
    for size in ("1100MiB", "1500MiB"):  # a reserve of 1 GiB is taken from it
        settings = f'[server]\nmemory_budget = "{size}"\n'
        found = layered(around, file, settings)
        log = around.work / "serving.log"
        said = [line for line in log.read_text().splitlines() if "layers fit" in line]
        sheet.add(f"as many layers as fit {size}", f"{(said or ['?'])[0][-60:]}: {found}")


def layered(around: Surroundings, file: Path, settings: str = "[server]\n", **own: object) -> str:
    table = text_model("m", file, context_length=2048, prompt_lookup=False, **own)
    try:
        with serving(around, settings + table, "m") as server:
            found = f"{rate(server, 1, is_quick=around.is_quick):.0f} tokens/s"
            server.log.seek(0)
            (around.work / "serving.log").write_bytes(server.log.read())
            return found
    except (Unmeasurable, OSError) as error:
        return f"FAILED: {error}"
