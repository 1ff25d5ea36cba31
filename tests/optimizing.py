"""Jobs for `localinfra.optimize` over a tiny model, and a worker whose speeds are fake."""

from pathlib import Path

from localinfra.llama.settings import ContextSettings
from localinfra.optimize.job import OptimizeJob

# The worker with fake speeds and the usual priority, independent of the machine's load.
PATCHED = """
from localinfra.optimize import speed, worker
from localinfra.optimize.choose import Speed
def speeds(runners, original, *rest):
    rate = lambda name: 100.0 if name == original else 200.0
    return {name: Speed(*[rate(name)] * 3) for name in runners}, True
speed.speeds = speeds
worker.give_way = lambda: None
worker.main()
"""


def job(path: Path, lossless_only: bool = True, keep: bool = True) -> OptimizeJob:
    settings = ContextSettings(
        context_length=512, num_cells=512, num_sequences=3, batch_size=512, threads=1, kv_type="f16"
    )
    return OptimizeJob(source=str(path), settings=settings, lossless_only=lossless_only, keep=keep)


def left_over(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name != ".lock")
