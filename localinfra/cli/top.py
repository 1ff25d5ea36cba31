"""`localinfra top`: what a running server does, again and again."""

import itertools
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click

from localinfra.cli.child import PROBE_LIMIT_S, ended_by_signals
from localinfra.cli.connect import running
from localinfra.cli.list import table
from localinfra.cli.memory import size
from localinfra.cli.readings import Change, Reader, RequestRow
from localinfra.cli.running import server_options
from localinfra.cli.screen import Paper, Screen, is_screen
from localinfra.errors import ApiError
from localinfra.logs import shown

MODELS = (  # what matters most first: a narrow terminal cuts the others
    "MODEL", "RUN", "WAIT", "OUT/S", "IN/S", "CACHED", "KV", "BATCH", "MS/STEP", "MEMORY", "DRAFTS",
)  # fmt: skip
REQUESTS = ("REQUEST", "ROUTE", "TIME", "IN", "OUT", "OUT/S", "MODEL")
MIN_NAME = 16  # characters of a model's name


@click.command()
@click.option(
    "--interval", type=click.FloatRange(0.2, 3600), default=2.0, help="Seconds. Default: 2."
)
@click.option(
    "--times", type=click.IntRange(1), help="Default: until q in a terminal, elsewhere once."
)
@server_options
def top(
    interval: float, times: int | None, url: str | None, key: str | None, config: Path | None
) -> None:
    """Show what a running server does: tokens per second, queues, caches and memory.

    \b
    OUT/S, IN/S     tokens generated and read per second, since the last view
    CACHED          of the tokens read: found in the prefix cache
    KV              of the KV cache: in use, or kept for later requests
    BATCH, MS/STEP  tokens per step of the engine, and how long a step takes
    DRAFTS          of the drafted tokens: accepted

    Press q to leave.
    """
    found = running(url, key, config)
    client = found.within(PROBE_LIMIT_S)
    reader = Reader(client)
    before = reader.read()
    is_watched = is_screen()
    if times is None and not is_watched:
        times = 1
    with (
        ended_by_signals(),
        Screen() if is_watched else Paper() as page,
        suppress(KeyboardInterrupt),
    ):
        if is_watched:
            page.show(view(client.url, Change(before, before), page.columns))
        for _ in itertools.count() if times is None else range(times):
            if page.wait(interval):
                return
            try:
                now = reader.read()
            except ApiError as error:
                if not is_watched:
                    raise
                page.show([shown(error.message), "Asking again; q leaves."])
                continue
            page.show(view(client.url, Change(before, now), page.columns))
            before = now


def view(url: str, change: Change, columns: float = math.inf) -> list[str]:
    """All lines. Names come from the server, which may be anyone's; those of models are cut where
    the lines would be longer than `columns`."""
    now = change.now
    names = sorted(name for name in now.by("model", "model_loaded") if is_shown(change, name))
    lines = [*summary(url, change), ""]
    if names:
        cells = [MODELS[1:], *(model_cells(change, name) for name in names)]
        width = max(map(len, table(cells))) + len("  ")
        room = max(MIN_NAME, columns - width)
        labels = [MODELS[0], *(ending(name, room) for name in names)]
        lines += table([(label, *row) for label, row in zip(labels, cells, strict=True)])
    else:
        lines.append("No model is in memory: the first request loads one.")
    if now.requests:
        lines += ["", *table([REQUESTS, *(request_cells(change, one) for one in now.requests)])]
    return lines


def ending(name: str, room: float) -> str:
    """As much of its end as there is room for."""
    text = shown(name)
    return text if len(text) <= room else f"..{text[2 - int(room) :]}"


def summary(url: str, change: Change) -> list[str]:
    now = change.now
    running = now.total("sequences_running") + now.total("requests_pending")
    failed = sum(change.grown("requests_total", status=status) for status in ("4xx", "5xx"))
    ended = change.rate("requests_total")
    own = change.rate("requests_total", model="")  # and what else needs no model
    held, room = now.by("device", "model_memory_bytes"), now.by("device", "memory_budget_bytes")
    memory = [
        f"{size(int(held.get(device, 0)))} of {size(int(total))} {shown(device)}"
        for device, total in room.items()
    ]
    parts = [
        f"{number(change.rate('generated_tokens_total'))} tokens/s out",
        f"{number(change.rate('prompt_tokens_total'))} in",
        f"{running:.0f} running",
        f"{now.total('sequences_waiting'):.0f} waiting",
        f"{number(None if ended is None or own is None else ended - own)} requests/s",
        f"{failed:.0f} failed",
    ]
    process = [f"models {', '.join(memory)}"] if memory else []
    if resident := now.total("process_resident_memory_bytes"):
        process.append(f"process {size(int(resident))}")
        process.append(f"CPU {percent(change.rate('process_cpu_seconds_total'))}")
    return [f"localinfra at {url}", "   ".join(parts), "   ".join(process)]


def is_shown(change: Change, name: str) -> bool:
    """Whether the model takes memory, or has just worked."""
    now = change.now
    gauges = ("model_loaded", "model_memory_bytes", "parked_prefix_bytes")
    return any(now.total(gauge, model=name) for gauge in gauges) or bool(
        change.grown("prompt_tokens_total", model=name)
    )


def model_cells(change: Change, name: str) -> Sequence[str]:
    """Without its name."""
    now = change.now

    def gauge(what: str) -> float:
        return now.total(what, model=name)

    def rate(what: str) -> str:
        return number(change.rate(what, model=name))

    def ratio(part: str, whole: str) -> float | None:
        return change.ratio(part, whole, model=name)

    memory = now.by("device", "model_memory_bytes", model=name).items()
    held = ", ".join(f"{size(int(count))} {shown(device)}" for device, count in memory)
    state = "" if gauge("model_loaded") else "(un)loading " if held else "unloaded"
    step_s, cells = ratio("step_seconds_total", "steps_total"), gauge("kv_cells")
    return (
        f"{gauge('sequences_running') + gauge('requests_pending'):.0f}",
        f"{gauge('sequences_waiting'):.0f}",
        rate("generated_tokens_total"),
        rate("prompt_tokens_total"),
        percent(ratio("cached_prompt_tokens_total", "prompt_tokens_total")),
        percent(gauge("kv_cells_used") / cells if cells else None),
        number(ratio("step_tokens_total", "steps_total")),
        number(None if step_s is None else step_s * 1000),
        (state + held) or "-",
        percent(ratio("accepted_draft_tokens_total", "drafted_tokens_total")),
    )


def request_cells(change: Change, one: RequestRow) -> Sequence[str]:
    return (
        shown(one.id, 12),
        shown(one.route, 40),
        f"{one.running_s:.0f} s",
        f"{one.prompt_tokens}",
        f"{one.generated_tokens}",
        number(change.tokens_per_s(one)),
        shown(one.model or "-"),
    )


def number(value: float | None) -> str:
    """Three digits; - if it is unknown."""
    return "-" if value is None else f"{value:.1f}" if 0 < value < 100 else f"{value:,.0f}"


def percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.0%}"
