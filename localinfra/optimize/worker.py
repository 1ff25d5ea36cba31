"""Makes, measures and keeps weights in its own process: `python -m localinfra.optimize.worker`.

Not inside a server, because llama.cpp aborts on some files, its quantizer can't be stopped, and the
memory must be returned. Reads an OptimizeJob as a line of JSON on stdin, and ends at EOF there.
Writes Events as lines of JSON, the last one Done or JobFailed. `run` is the other side.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from localinfra import machine
from localinfra.children import end_with_parent, give_way
from localinfra.engine.backend import DecodeFailed
from localinfra.llama.model import LoadFailed
from localinfra.llama.quantize import QuantizeFailed
from localinfra.models.gguf.reader import BadGguf, read_header
from localinfra.optimize import choose, store
from localinfra.optimize.bench import Bench, CannotMeasure
from localinfra.optimize.choose import MeasuredType
from localinfra.optimize.job import Done, Event, JobFailed, OptimizeJob, Progress, Report
from localinfra.optimize.store import CacheUnusable, Identity

Show = Callable[[float, str], None]  # fraction of all the work done, and what comes next
FAILURES = (BadGguf, QuantizeFailed, LoadFailed, DecodeFailed, CannotMeasure, CacheUnusable)


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=OptimizeJob)
    end_with_parent()
    if job.is_background:
        give_way()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # unwinds, which removes scratch

    def emit(event: Event) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
        sys.stdout.buffer.flush()

    try:
        emit(Done(work(job, lambda fraction, text: emit(Progress(fraction, text)))))
    except BrokenPipeError:  # the parent is gone; scratch is already removed
        os._exit(1)  # skips flushing stdout, which would fail again
    except (*FAILURES, OSError) as error:
        emit(JobFailed(str(error)))


def work(job: OptimizeJob, show: Show) -> Report:
    """Runs the job. Raises one of FAILURES or OSError if it fails."""
    source = Path(job.source)
    header = read_header(source)
    identity = store.identify(source)
    original = MeasuredType(choose.main_type(header), header.size_bytes)
    types = choose.candidates(header, job.lossless_only)
    if not types:
        reason = f"no type is both lossless and smaller than {original.type.upper()}"
        if job.keep:
            store.put_off(source, reason, is_final=True)
        return Report(original=original, reason=reason)
    with store.locked(lambda holder: show(0, f"waiting for {holder}, which is measuring")):
        digest = store.digest_of(source) if job.keep else ""
        known = store.find_digest(digest) if job.keep and job.lossless_only else None
        if known:
            store.keep(msgspec.structs.replace(known, source=identity))
            return Report(original=original, reason=known.reason, kept=as_text(known.path))
        goes_on = job.keep and job.lossless_only  # where an interrupted job has ended
        places = {type: store.place_of(identity, digest, type) for type in types if goes_on}
        sizes = {type: choose.size_as(header, type) for type in (*types, choose.REFERENCE)}
        check_memory(header.size_bytes + sum(sizes.values()))
        missing = [type for type in sizes if type not in places or not places[type].exists()]
        with store.scratch(sum(sizes[type] for type in missing) * 21 // 20) as folder:
            with Bench(header, job.settings, folder, places) as bench:
                report = measure(bench, job, types, show)
            return keep(job, report, bench.files, identity, digest) if job.keep else report


def check_memory(needed: int) -> None:
    """Raises CannotMeasure if the files don't all fit in memory: they are read side by side, and
    reading them from disk each time would take hours."""
    available = machine.available_memory()
    if available is not None and needed > available:
        raise CannotMeasure(
            f"comparing needs {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are "
            "available; close other programs"
        )


def measure(bench: Bench, job: OptimizeJob, types: Sequence[str], show: Show) -> Report:
    """Measures speed first: if nothing is faster, the loss doesn't matter.

    Speed needs the threads that will serve; all else leaves a core to others in the background.
    """
    threads = max(1, bench.threads - 1) if job.is_background else bench.threads
    for number, type in enumerate(types):
        show(0.2 * number / len(types), f"writing {type.upper()}")
        bench.make(type, threads)
    show(0.2, "measuring speed")
    speeds, is_steady = bench.speeds(lambda part: show(0.2 + 0.4 * part, "measuring speed"))
    original, *candidates = bench.measured([bench.original, *types], speeds)
    is_any_faster = any(choose.is_faster(one, original) for one in candidates)
    if not job.lossless_only or (is_any_faster and is_steady):
        if choose.REFERENCE not in bench.files:
            show(0.6, f"writing {choose.REFERENCE.upper()} to compare with")
            bench.make(choose.REFERENCE, threads)
        if not is_steady:
            bench.use_threads(1)  # several would wait for each other
        elif job.is_background:
            bench.use_threads(threads)
        show(0.65, "measuring loss")
        losses = bench.losses(lambda part: show(0.65 + 0.35 * part, "measuring loss"))
        original, *candidates = bench.measured([bench.original, *types], speeds, losses)
    best = choose.winner(candidates, original)
    return Report(
        original=original,
        candidates=tuple(candidates),
        reason=choose.reason(candidates, original),
        winner=best.type if best else None,
        is_steady=is_steady,
    )


def keep(
    job: OptimizeJob, report: Report, files: Mapping[str, Path], identity: Identity, digest: str
) -> Report:
    """Records the decision, with the winning weights if any. A disturbed measurement is dropped, or
    a busy moment would decide forever; but `localinfra optimize --apply` keeps a winner, since its
    user sees the figures."""
    if not report.is_steady and (job.lossless_only or not report.winner):
        return report
    if store.identify(Path(job.source)) != identity:
        raise CannotMeasure(f"{job.source} changed during the measurement; start again")
    weights = (report.winner, files[report.winner]) if report.winner else None
    decision = store.decide(identity, digest, report.reason, weights)
    store.keep(decision, weights[1] if weights else None)
    return msgspec.structs.replace(report, kept=as_text(decision.path))


def as_text(path: Path | None) -> str | None:
    return str(path) if path else None


if __name__ == "__main__":
    main()
