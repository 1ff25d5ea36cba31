"""An echo whose slow models take long for a step, as those that another device computes."""

import time

from echo import EchoBackend, EchoRuntime

from localinfra.engine.backend import Batch

LONG_STEP_S = 0.05  # far more than what this machine's processor does for a step, busy as it may be


class PacedBackend(EchoBackend):
    def decode(self, batch: Batch) -> None:
        if self.step_s:
            time.sleep(LONG_STEP_S)
        super().decode(batch)


class PacedRuntime(EchoRuntime):
    backend_kind = PacedBackend
