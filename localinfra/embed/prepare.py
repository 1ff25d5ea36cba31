"""Finds the fastest way to compute an encoder on this machine, in a process of its own.

    python -m localinfra.embed.prepare REQUEST    # JSON of a Request

Loads the folder with torch in float32, the reference; exports it for onnxruntime and OpenVINO if
they are installed; measures each on texts of mixed lengths; and writes the graph, the tokenizer and
`plan.json`, with speed and accuracy of each way, to `out`. Prints its progress to standard output.
A server runs beside it, so it uses the lowest priority and takes the best of several timings.
"""

import asyncio
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from localinfra.children import end_with_parent
from localinfra.embed.encoder import Encoder, Rows, Tokens, arrays_of, unit_length
from localinfra.embed.graph_encoders import OnnxEncoder, OpenVinoEncoder
from localinfra.embed.plan import (
    GRAPH,
    MAX_DIFFERENCE,
    MIN_COSINE,
    PLAN,
    TOKENIZER,
    EncoderPlan,
    MeasuredWay,
    Request,
)
from localinfra.embed.tokenizer import FastTokenizer
from localinfra.embed.torch_encoder import TorchEncoder
from localinfra.embed.worker import EmbedWorker
from localinfra.install import is_installed

WORDS = (
    "the river carries stones from far away mountains to a garden where music was playing in winter"
).split()
LENGTHS = (1, 3, 8, 9, 10, 20, 21, 40, 90, 150)  # of texts, in words
MAX_LENGTH = 2048
ROUNDS = 3


def samples(tokenizer: FastTokenizer, kind: str) -> list[Tokens]:
    """Texts of all lengths up to the model's limit, or MAX_LENGTH tokens."""
    lengths = [*LENGTHS, min(tokenizer.max_tokens, MAX_LENGTH)]
    texts = [" ".join(WORDS[(at * 5) % len(WORDS)] for at in range(count)) for count in lengths]
    if kind == "rerank":
        found = tokenizer.tokenize_pairs(texts[3], texts)
    else:
        found = tokenizer.tokenize(texts)
    return [tokenizer.cut(tokens) for tokens in found]


def export(reference: TorchEncoder, example: list[Tokens], path: Path) -> None:
    """Writes the whole network, with pooling, as an ONNX graph with dynamic batch and length."""
    import torch

    from localinfra.embed.torch_encoder import rows_of

    names = ["input_ids", "attention_mask"]
    if reference.description.takes_types:
        names.append("token_type_ids")

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = reference.network

        def forward(self, *inputs: Any) -> Any:
            return rows_of(self.network, dict(zip(names, inputs, strict=True)))

    arrays = arrays_of(example, reference.description)
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=2)
    with torch.inference_mode():
        torch.onnx.export(
            Graph().eval(),
            tuple(torch.from_numpy(arrays[name]) for name in names),
            str(path),
            input_names=names,
            output_names=["rows"],
            dynamo=True,  # the other exporter silently gives different vectors
            dynamic_shapes=(tuple({0: batch, 1: length} for _ in names),),
            external_data=False,
            verbose=False,
        )


def nearness(rows: Rows, expected: Rows, kind: str) -> float:
    """The least cosine between rows; for scores, 1 minus the largest difference."""
    if kind == "rerank":
        return 1.0 - float(np.abs(rows - expected).max())
    return float((unit_length(rows) * unit_length(expected)).sum(axis=1).min())


def measure(encoder: Encoder, texts: list[Tokens], expected: Rows, kind: str) -> MeasuredWay:
    """Measures an encoder under a worker, as in serving; closes both at the end."""
    worker = EmbedWorker(encoder, name=encoder.name, max_waiting=1)
    short, mixed = [texts[3]], texts[: len(LENGTHS)] * 3
    with asyncio.Runner() as loop:
        rows = loop.run(worker.rows(texts))
        short_s = [timed(lambda: loop.run(worker.rows(short))) for _ in range(4 * ROUNDS)]
        mixed_s = [timed(lambda: loop.run(worker.rows(mixed))) for _ in range(ROUNDS)]
    worker.close()
    near = nearness(rows, expected, kind)
    return MeasuredWay(
        nearness=near,
        is_near=near >= (1 - MAX_DIFFERENCE if kind == "rerank" else MIN_COSINE),
        short_s=min(short_s),
        mixed_s=min(mixed_s),
    )


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def prepare(request: Request) -> EncoderPlan:
    folder = Path(request.folder)
    out = Path(request.out)
    reference = TorchEncoder(
        folder, request.kind, threads=request.threads, max_tokens=request.max_tokens
    )
    (out / TOKENIZER).write_text(reference.tokenizer_json)
    description = reference.description
    tokenizer = FastTokenizer(reference.tokenizer_json, description.max_tokens)
    texts = samples(tokenizer, request.kind)
    expected = reference.encode(texts)
    threads = request.threads
    makers: dict[str, Callable[[], Encoder]] = {}
    wants_graph = any(is_installed(name) for name in ("onnxruntime", "openvino"))
    if wants_graph and is_installed("onnxscript") and not description.needs_prompt_length:
        say("exporting")
        try:
            export(reference, texts, out / GRAPH)
        except Exception as error:  # from the exporter; torch still works
            print(f"the export failed: {type(error).__name__}: {error}", file=sys.stderr)
        else:
            graph = out / GRAPH
            if is_installed("onnxruntime"):
                makers["onnx"] = lambda: OnnxEncoder(graph, description, threads=threads)
            if is_installed("openvino"):
                makers["openvino"] = lambda: OpenVinoEncoder(graph, description, threads=threads)
                if computes_bf16():
                    makers["openvino-bf16"] = lambda: OpenVinoEncoder(
                        graph, description, threads=threads, precision="bf16"
                    )
    if computes_bf16():
        makers["torch-bf16"] = lambda: TorchEncoder(
            folder, request.kind, dtype="bfloat16", threads=threads
        )
    results: dict[str, MeasuredWay] = {}
    for name, make in makers.items():
        if request.ways is not None and name not in request.ways:
            continue
        say(f"measuring {name}")
        try:
            results[name] = measure(make(), texts, expected, request.kind)
        except Exception as error:  # e.g. an operation the library does not support
            print(f"{name} failed: {type(error).__name__}: {error}", file=sys.stderr)
    say("measuring torch")
    results["torch"] = measure(reference, texts, expected, request.kind)  # last, since it closes it
    return EncoderPlan(description, results)


def say(text: str) -> None:
    print(text, file=sys.__stdout__, flush=True)


def computes_bf16() -> bool:
    """Whether the CPU has bfloat16 instructions; without them it is slower than float32."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported())


def main(text: str) -> None:
    end_with_parent()
    sys.stdout = sys.stderr  # keeps library output out of the progress lines
    if hasattr(os, "nice"):
        os.nice(19)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    request = msgspec.json.decode(text, type=Request)
    plan = prepare(request)
    (Path(request.out) / PLAN).write_bytes(msgspec.json.format(msgspec.json.encode(plan)))


if __name__ == "__main__":
    main(sys.argv[1])
