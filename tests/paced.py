"""Echoes that take long for a step, as models do that another device computes."""

import os
import time
from pathlib import Path

from echo import EchoBackend

from localinfra.engine.backend import Batch

LONG_STEP_S = 0.05  # far more than what this machine's processor does for a step, busy as it may be

GATE = "LOCALINFRA_TESTS_GATE"  # an environment variable with a path
GATED_STEP_S = 0.5  # a long answer takes a quarter of an hour


class PacedBackend(EchoBackend):
    def decode(self, batch: Batch) -> None:
        if self.step_s:
            time.sleep(LONG_STEP_S)
        super().decode(batch)


class GatedBackend(EchoBackend):
    """Takes its time while there is a file at this place, of any process."""

    def decode(self, batch: Batch) -> None:
        if Path(os.environ[GATE]).exists():
            time.sleep(GATED_STEP_S)
        super().decode(batch)
