"""The parts in turn, each in a process of its own with a limit: one that fails, hangs or dies is
noted, and the next goes on."""

import contextlib
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from benchlib import ROOT

from gpucheck.rows import Row, Sheet, as_table, read_rows

SCRIPT = ROOT / "scripts" / "gpu_check"


class Part(NamedTuple):
    title: str
    function: str  # in this package: module.function
    limit_s: float


# In order of what is missed most if time runs out.
PARTS = {
    "build": Part("what is here, and llama.cpp for it", "surroundings.run", 420),
    "logits": Part("logits beside the CPU's", "fidelity.run_logits", 90),
    "speed": Part("tokens per second", "speed.run", 240),
    "images": Part("pictures", "images.run", 210),
    "tests": Part("the engine's tests", "fidelity.run_tests", 120),
    "embeddings": Part("embeddings", "others.run_embeddings", 60),
    "broker": Part("models of all kinds in one budget", "others.run_broker", 60),
    "layers": Part("layers on the GPU and the CPU", "others.run_layers", 60),
}
GRACE_S = 15.0  # for a part that is told to end, which has servers to end


def run_all(options: Namespace) -> int:
    """Returns how many rows are failures. On Ctrl-C and `stop`, ends its part and keeps what there
    is."""
    options.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * options.minutes
    rows: list[Row] = []
    names = [name for name in PARTS if name == "build" or not options.only or name in options.only]
    for name in names:
        part = PARTS[name]
        print(f"{name}: {part.title}", flush=True)
        # Others' machines are three times slower, and may be busy.
        limit_s = part.limit_s * (1 if options.minutes <= 12 else options.minutes / 12)
        left_s = deadline - time.monotonic() - GRACE_S
        if left_s > 0:
            try:
                rows += run_part(name, options, min(limit_s, left_s))
            except (KeyboardInterrupt, SystemExit):
                save(options.out, [*rows, *read_rows(options.out / f"{name}.jsonl")])
                raise
        else:
            rows.append(Row(part.title, "not run: the time was up", part=name))
        save(options.out, rows)
    print(f"\n{as_table(rows)}\n\n{heading()}", flush=True)
    return sum(row.is_failed for row in rows)


def run_part(name: str, options: Namespace, limit_s: float) -> list[Row]:
    """Its rows, and one more if it did not end well."""
    begun = time.monotonic()
    file = options.out / f"{name}.jsonl"
    file.unlink(missing_ok=True)  # an earlier run's rows would look like this one's
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "--part", name, *passed_on(options)],
        env=environment(options.work),
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for this process, which tells the part
    )
    try:
        status = ended(process, limit_s)
    finally:
        if process.returncode is None:
            ended(process, 0)
    seconds = time.monotonic() - begun
    rows = read_rows(file)
    if seconds > limit_s:
        rows.append(Row(PARTS[name].title, f"FAILED: stopped after {seconds:.0f} s", part=name))
    elif status:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        rows.append(Row(PARTS[name].title, f"FAILED: ended with {how}", part=name))
    return rows


def ended(process: "subprocess.Popen[bytes]", limit_s: float) -> int | None:
    """Its status once it has ended, by itself or after the limit by signals."""
    for sign, patience_s in ((None, limit_s), (signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        if sign:
            process.send_signal(sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(patience_s)
    return None


def passed_on(options: Namespace) -> list[str]:
    words = ["--out", str(options.out), "--work", str(options.work)]
    words += ["--quick"] if options.quick else []
    words += ["--packed", str(options.packed)] if options.packed else []
    return words + (["--llama-server", str(options.llama_server)] if options.llama_server else [])


def environment(work: Path) -> dict[str, str]:
    """What was installed for this check comes before the machine's own packages."""
    paths = (work / "site", ROOT, ROOT / "scripts", os.environ.get("PYTHONPATH", ""))
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(str(path) for path in paths if str(path)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LOCALINFRA_CACHE": str(work / "cache"),
        "LOCALINFRA_DATA": str(work / "data"),
        "HF_HUB_OFFLINE": "1",
    }


def run_here(options: Namespace) -> None:
    """One part, in its process."""
    signal.signal(signal.SIGTERM, stop)  # its servers are ended on the way out
    module, name = PARTS[options.part].function.split(".")
    function: Callable[..., None] = getattr(importlib.import_module(f"gpucheck.{module}"), name)
    sheet = Sheet(options.out / f"{options.part}.jsonl", options.part)
    if options.part == "build":
        function(options, sheet)
        return
    from gpucheck.tools import Surroundings

    try:
        around = Surroundings.load(options.work)
    except FileNotFoundError:
        sheet.add(PARTS[options.part].title, "not run: the first part says why")
        return
    try:
        function(around, sheet)
    except Exception as error:
        sheet.add(PARTS[options.part].title, f"FAILED: {type(error).__name__}: {error}"[:500])
        raise


def stop(_signal: int, _frame: object) -> None:
    raise SystemExit(1)


def save(out: Path, rows: list[Row]) -> None:
    """After each part: what there is counts, however this ends."""
    report = {"heading": heading(), "rows": [asdict(row) for row in rows]}
    (out / "results.json").write_text(json.dumps(report, indent=1))
    (out / "table.md").write_text(f"{as_table(rows)}\n\n{heading()}\n")


def heading() -> str:
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0))
    return (
        f"Python {platform.python_version()}, torch {of('torch')}, {cores} cores, load {load:.1f}."
    )


def of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
