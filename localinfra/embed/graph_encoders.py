"""An exported graph (ONNX) run by onnxruntime or OpenVINO: the same vectors as torch, faster.

Neither needs torch in the process. A single batch is computed by all threads together. Concurrent
batches get a thread each: without synchronising at every operation, threads are a sixth faster (two
cores, MiniLM).
"""

import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from localinfra.embed.encoder import Description, Rows, Tokens, arrays_of

BATCH_TOKENS = 512  # larger batches exceed a core's caches
MAX_SECOND_BYTES = 256 << 20  # of a graph loaded twice, for one thread and for all

# OpenVINO tells its makers of every import, by this package; where there is none it tells nobody.
REPORTER = "openvino_telemetry"

Run: TypeAlias = Callable[[dict[str, Any]], Rows]


class GraphEncoder:
    """`wide` uses all threads; `narrow` uses one per caller, for several callers at once."""

    name: str

    def __init__(
        self,
        description: Description,
        wide: Run,
        narrow: Run | None,
        threads: int,
        batch_tokens: int | None,
    ):
        self.width = description.width
        self.num_lanes = threads if narrow else 1
        self.batch_tokens = batch_tokens or BATCH_TOKENS
        self._description = description
        self._wide = wide
        self._narrow = narrow or wide

    def encode(self, batch: Sequence[Tokens], *, is_alone: bool) -> Rows:
        run = self._wide if is_alone else self._narrow
        return run(arrays_of(batch, self._description))

    def close(self) -> None:
        del self._wide, self._narrow


def has_lanes(graph: Path, threads: int) -> bool:
    return threads > 1 and graph.stat().st_size <= MAX_SECOND_BYTES


class OnnxEncoder(GraphEncoder):
    def __init__(
        self,
        graph: Path,
        description: Description,
        *,
        threads: int,
        batch_tokens: int | None = None,
    ):
        import onnxruntime

        def session(num_threads: int) -> Run:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = num_threads
            options.log_severity_level = 3
            # Spinning threads would take cores from the text models.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            providers = ["CPUExecutionProvider"]
            made = onnxruntime.InferenceSession(str(graph), options, providers=providers)

            def run(inputs: dict[str, Any]) -> Rows:
                rows: Rows = made.run(None, inputs)[0]
                return rows

            return run

        # Several callers may share a session; with one thread it computes in the caller's.
        narrow = session(1) if has_lanes(graph, threads) else None
        super().__init__(description, session(threads), narrow, threads, batch_tokens)
        self.name = f"onnxruntime {onnxruntime.__version__}"


class OpenVinoEncoder(GraphEncoder):
    def __init__(
        self,
        graph: Path,
        description: Description,
        *,
        threads: int,
        precision: str = "f32",
        batch_tokens: int | None = None,
    ):
        """`precision`: f32, or bf16, which is faster on CPUs with bf16 instructions."""
        sys.modules.setdefault(REPORTER, None)  # type: ignore[arg-type] # as its docs have it
        import openvino

        core = openvino.Core()
        network = core.read_model(str(graph))

        def runner(streams: int) -> Run:
            hints = {
                "INFERENCE_PRECISION_HINT": precision,
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": streams,
            }
            compiled = core.compile_model(network, "CPU", hints)
            output, local = compiled.output(0), threading.local()

            def run(inputs: dict[str, Any]) -> Rows:
                if not hasattr(local, "request"):  # one per calling thread
                    local.request = compiled.create_infer_request()
                # Copied, since the request reuses its memory.
                return np.array(local.request.infer(inputs)[output], np.float32)

            return run

        narrow = runner(threads) if has_lanes(graph, threads) else None
        super().__init__(description, runner(1), narrow, threads, batch_tokens)
        self.name = f"OpenVINO {precision}"
