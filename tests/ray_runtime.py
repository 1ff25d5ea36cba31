"""What replicas on Ray load in tests: real models, and echoes of several kinds."""

from collections.abc import Mapping
from typing import ClassVar

from agents import CallingBackend
from echo import EchoBackend, EchoRuntime
from paced import GatedBackend, PacedBackend

from localinfra.engine.backend import Batch, DecodeFailed, DeviceFailed

LOSE, FAIL = "the device is lost", "the step fails"


class FragileBackend(EchoBackend):
    """Computes anything but prompts with these words."""

    def decode(self, batch: Batch) -> None:
        said = bytes(token for token in batch.tokens if 0 <= token < 256).decode("latin-1")
        if LOSE in said:
            raise DeviceFailed(LOSE)
        if FAIL in said:
            raise DecodeFailed(FAIL)
        super().decode(batch)


class RayRuntime(EchoRuntime):
    kinds: ClassVar[Mapping[str, type[EchoBackend]]] = {
        "slow.gguf": PacedBackend,
        "gated.gguf": GatedBackend,
        "agent.gguf": CallingBackend,
        "fragile.gguf": FragileBackend,
    }

    def backend_of(self, file: str) -> type[EchoBackend]:
        return self.kinds.get(file, EchoBackend)
