"""Whether the device computes what the CPU does: the tests of the engine on it, and rows of logits
beside the CPU's."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from benchlib import ROOT

from gpucheck import shapes
from gpucheck.rows import NO_GPU, Sheet
from gpucheck.tools import Surroundings

# What the engine promises on any device. Those of reproducible texts are left out: docs/seeds.md
# does not promise them on GPUs.
TESTED = {
    "steps, slots and copies of cells": ["llama/test_cells.py", "llama/test_slots.py"],
    "prefixes shared, parked and restored": ["llama/test_state.py", "text/test_prefix_reuse.py"],
    "sliding windows": ["llama/test_windows.py"],
    "hybrids' states": ["llama/test_states.py"],
    "pictures": ["llama/test_pictures.py", "llama/test_places.py"],
    "MTP and draft models": ["llama/test_mtp.py", "llama/test_draft_models.py"],
    "all kinds of tiny models": ["llama/test_tiny_models.py"],
}
ON_DEVICE = "gpucheck.on_device"
QUICKLY = ("sliding windows",)
WORST_SHARE = 0.05  # of the spread of a row's logits: half-precision sums in another order


def run_tests(around: Surroundings, sheet: Sheet) -> None:
    where = "the device" if around.gpu else "the CPU"
    for title, files in TESTED.items():
        if around.is_quick and title not in QUICKLY:
            continue
        paths = [str(ROOT / "tests" / file) for file in files]
        # Others' versions of packages may warn, which fails tests here.
        command = [sys.executable, "-m", "pytest", "-m", "not slow", "-W", "default"]
        command += ["-p", ON_DEVICE, "-p", "no:cacheprovider", *paths]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, env=environment_of_tests()
        )
        sheet.add(f"tests on {where}: {title}", verdict(done.returncode, done.stdout))


def environment_of_tests() -> dict[str, str]:
    path = os.pathsep.join((str(ROOT / "scripts"), str(ROOT), os.environ.get("PYTHONPATH", "")))
    return os.environ | {"PYTHONPATH": path}


def verdict(status: int, output: str) -> str:
    """From pytest's exit status and output."""
    last = (output.strip().splitlines() or ["nothing was said"])[-1]
    counts = ", ".join(re.findall(r"\d+ (?:passed|failed|errors?|skipped)", last)) or last[:200]
    failed = re.findall(r"^(?:FAILED|ERROR) \S*?(\w+\.py(?:::\S+)?)", output, re.M)
    if status == 0:
        return f"passed{f' ({counts})' if 'passed' in counts else ''}"
    return f"FAILED: {counts}: {', '.join(failed)[:500]}"


def run_logits(around: Surroundings, sheet: Sheet) -> None:
    if not around.gpu:
        sheet.add("logits of the device beside the CPU's", NO_GPU)
    for title, path in models(around):
        rows = logits(path, 0)
        chunked = logits(path, 0, step=16)
        sheet.add(f"{title}: logits of one step and of several", likeness(rows, chunked))
        if around.gpu:
            sheet.add(f"{title}: logits of the device", likeness(rows, logits(path, 999)))


def models(around: Surroundings) -> list[tuple[str, Path]]:
    """Tiny ones of each kind, and those whose speed is measured."""
    sys.path.insert(0, str(ROOT / "tests"))
    from models.tiny_gguf import TinyModel, tiny_gemma3, tiny_llama, tiny_mamba
    from models.tiny_hybrids import tiny_lfm2, tiny_qwen35

    kinds: dict[str, Callable[[], TinyModel]] = {
        "tiny llama": tiny_llama,
        "tiny gemma3, with windows": tiny_gemma3,
        "tiny mamba, recurrent": tiny_mamba,
        "tiny lfm2, hybrid": tiny_lfm2,
        "tiny qwen35, hybrid": tiny_qwen35,
    }
    found = [
        (title, make().write(around.work / f"{title.split(',')[0]}.gguf"))
        for title, make in kinds.items()
    ]
    if around.vocabulary and not around.is_quick:
        for title, shape in (("SmolLM2's shape", shapes.SMOLLM2), ("Gemma 3's", shapes.GEMMA3)):
            path = around.work / f"logits {shape.architecture}.gguf"
            found.append((title, shapes.write(path, shape, around.vocabulary)))
    return found


def logits(path: Path, gpu_layers: int, step: int = 64) -> npt.NDArray[np.float32]:
    """Rows for 64 tokens, which are read `step` at a time. [64, words]"""
    import ctypes

    from localinfra.llama.library import llama_cpp
    from localinfra.llama.model import Model, ModelSettings

    model = Model(path, ModelSettings(gpu_layers=gpu_layers))
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 256
    context, _ = model.new_context(params)
    rows = []
    for start in range(0, 64, step):
        batch = llama_cpp.llama_batch_init(step, 0, 1)
        batch.n_tokens = step
        for at in range(step):
            batch.token[at] = (start + at) * 7 % min(model.num_vocab, 250)
            batch.pos[at], batch.n_seq_id[at], batch.logits[at] = start + at, 1, 1
            batch.seq_id[at][0] = 0
        if llama_cpp.llama_decode(context, batch):
            raise RuntimeError(f"{path} could not be decoded")
        pointer = llama_cpp.llama_get_logits(context)
        size = step * model.num_vocab
        values = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float * size)).contents
        rows.append(np.array(values, np.float32).reshape(step, -1))
        llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    model.close()
    return np.concatenate(rows)


def likeness(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> str:
    """The largest difference, as a share of the rows' spread."""
    share = float(np.abs(one - other).max() / one.std())
    same = float((one.argmax(1) == other.argmax(1)).mean())
    text = f"differ by at most {share:.1e} of their spread, {same:.0%} have the same best token"
    return f"passed: {text}" if share <= WORST_SHARE else f"FAILED: {text}"
