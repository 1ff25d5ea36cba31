"""An exported graph (ONNX) run by onnxruntime or by OpenVINO: the same vectors as torch, sooner.

Neither needs torch in the process: it is 0.2 s from a start to the first vector.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from localinfra.embed.encoder import Description, Rows, Tokens, arrays_of

BATCH_TOKENS = 1024  # as torch's: beyond it a batch no longer fits a core's caches


class OnnxEncoder:
    def __init__(
        self,
        graph: Path,
        description: Description,
        *,
        threads: int,
        batch_tokens: int | None = None,
    ):
        self._description = description
        self.width = description.width
        self.batch_tokens = batch_tokens or BATCH_TOKENS
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads that spin while they wait would take the cores of the text models.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"]
        )
        self.name = f"onnxruntime {onnxruntime.__version__}"

    def encode(self, batch: Sequence[Tokens]) -> Rows:
        rows: Rows = self._session.run(None, arrays_of(batch, self._description))[0]
        return rows

    def close(self) -> None:
        self._session = None


class OpenVinoEncoder:
    def __init__(
        self,
        graph: Path,
        description: Description,
        *,
        threads: int,
        precision: str = "f32",
        batch_tokens: int | None = None,
    ):
        """`precision` is f32 or bf16, which is faster on CPUs that compute in it."""
        self._description = description
        self.width = description.width
        self.batch_tokens = batch_tokens or BATCH_TOKENS
        import openvino

        hints = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        core = openvino.Core()
        self._compiled: Any = core.compile_model(core.read_model(str(graph)), "CPU", hints)
        self._request: Any = self._compiled.create_infer_request()
        self.name = f"OpenVINO {precision}"

    def encode(self, batch: Sequence[Tokens]) -> Rows:
        outputs = self._request.infer(arrays_of(batch, self._description))
        return np.array(outputs[self._compiled.output(0)], np.float32)  # its memory is used again

    def close(self) -> None:
        self._request = self._compiled = None
