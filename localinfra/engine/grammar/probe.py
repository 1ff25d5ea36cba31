"""A child process that compiles grammars and takes a few steps in them to measure their cost.

Run as a script by `prober.py`; imports only llguidance and numpy, so that it starts in 0.1 s. It
ends with its parent, or when a grammar takes too much CPU time or memory: some grammars keep
llguidance busy for hours, and some crash it.
"""

import contextlib
import math
import os
import random
import signal
import struct
import sys
import threading
import time

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

try:
    import resource
except ImportError:  # Windows: memory is limited by the CPU time alone
    resource = None  # type: ignore[assignment]

MAX_MEMORY = 1 << 30  # bytes of address space beyond those at the start
NUM_STEPS = 48
WATCH_S = 0.05
MAX_STEP_S = 0.1  # CPU time; usual steps take 10 µs

# llguidance's own limits, used by `constraint.py` too.
LIMITS: dict[str, int | bool] = {
    "initial_lexer_fuel": 2_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 50_000,
    "verbose_errors": False,
}


def main() -> None:
    """Reads sources from stdin and answers each with its problem, or ''. Both length-prefixed."""
    if hasattr(os, "nice"):
        os.nice(5)  # generation goes first
    budget = CpuBudget(float(sys.argv[1]))
    tokenizer = LLTokenizer("byte")
    if resource:
        limit_memory()
    read, write = sys.stdin.buffer.read, sys.stdout.buffer
    while len(header := read(4)) == 4:
        source = read(struct.unpack("<I", header)[0]).decode()
        with budget:
            problem = probe(tokenizer, source).encode()
        write.write(struct.pack("<I", len(problem)) + problem)
        write.flush()


def limit_memory() -> None:
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:  # on Linux
        used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MAX_MEMORY, used + MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class CpuBudget:
    """Ends the process after so many seconds of CPU time within."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends_at = math.inf  # by time.process_time()
        self._has_timer = hasattr(signal, "setitimer")
        if not self._has_timer:  # Windows. llguidance releases the GIL while it computes
            threading.Thread(target=self._watch, daemon=True).start()

    def __enter__(self) -> None:
        if self._has_timer:
            signal.setitimer(signal.ITIMER_PROF, self._seconds)  # its signal ends the process
        else:
            self._ends_at = time.process_time() + self._seconds

    def __exit__(self, *failure: object) -> None:
        if self._has_timer:
            signal.setitimer(signal.ITIMER_PROF, 0)
        else:
            self._ends_at = math.inf

    def _watch(self) -> None:
        while time.process_time() < self._ends_at:
            time.sleep(WATCH_S)
        os._exit(1)


def probe(tokenizer: LLTokenizer, source: str) -> str:
    """Follows two random texts for some steps. Returns the problem, or ''."""
    matcher = LLMatcher(tokenizer, source, log_level=0, limits=LLParserLimits(**LIMITS))
    if matcher.is_error():
        return matcher.get_error() or "no reason was given"
    for seed in range(2):
        rng, walker = random.Random(seed), matcher.deep_copy()
        for _ in range(NUM_STEPS):
            if walker.is_stopped():
                break
            started_s = time.process_time()
            mask = np.frombuffer(walker.compute_bitmask(), np.uint8)
            allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little"))
            if walker.is_error() or not len(allowed):
                return walker.get_error() or "it leads to a dead end"
            walker.consume_token(int(rng.choice(list(allowed[:256]))))
            if time.process_time() - started_s > MAX_STEP_S:
                return "each step takes too long"
    return ""


if __name__ == "__main__":
    main()
