"""A child process that compiles grammars and takes a few steps in them to measure their cost.

Run as a script by `prober.py`; imports only llguidance and numpy, so that it starts in 0.1 s. It
ends with its parent, or when a grammar takes too much CPU time or memory: some grammars keep
llguidance busy for hours, and some crash it.
"""

import contextlib
import os
import random
import resource
import signal
import struct
import sys
import time

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

MAX_MEMORY = 1 << 30  # bytes of address space beyond those at the start
NUM_STEPS = 48
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
    os.nice(5)  # generation goes first
    budget_s = float(sys.argv[1])
    tokenizer = LLTokenizer("byte")
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:  # on Linux
        used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MAX_MEMORY, used + MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    read, write = sys.stdin.buffer.read, sys.stdout.buffer
    while len(header := read(4)) == 4:
        source = read(struct.unpack("<I", header)[0]).decode()
        signal.setitimer(signal.ITIMER_PROF, budget_s)  # CPU time; the signal ends the process
        problem = probe(tokenizer, source).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        write.write(struct.pack("<I", len(problem)) + problem)
        write.flush()


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
