"""ImageModel: a loaded image pipeline as the API sees it. A request → events and pictures."""

import msgspec

from localinfra.errors import InvalidRequest
from localinfra.executor import BoundedExecutor
from localinfra.image.pipeline import FluxPainter
from localinfra.image.request import ImageRequest
from localinfra.image.worker import ImageWorker, Painting
from localinfra.models.entries import ImageModelEntry, ModelDetails
from localinfra.watchdog import Pulse


class PromptTokens(msgspec.Struct, frozen=True):
    """How many tokens each text encoder makes of a prompt, and how many it reads."""

    clip: int
    clip_limit: int
    t5: int
    t5_limit: int

    @property
    def is_cut(self) -> bool:
        """T5 decides what is painted; CLIP's short look at a prompt gives its general style."""
        return self.t5 > self.t5_limit

    @property
    def cuts(self) -> list[str]:
        """What is not read, as `name=read/all`."""
        counts = (("clip", self.clip_limit, self.clip), ("t5", self.t5_limit, self.t5))
        return [f"{name}={limit}/{count}" for name, limit, count in counts if count > limit]


class ImageModel:
    """Owns its worker. Made by `loading.py`, closed by the pool."""

    def __init__(self, name: str, entry: ImageModelEntry, painter: FluxPainter, max_waiting: int):
        self.name = name
        self.entry = entry
        self._painter = painter
        self._worker = ImageWorker(painter, name=name, max_waiting=max_waiting)
        self._counting = BoundedExecutor("prompts", 1, max_waiting)  # the tokenizers take one

    @property
    def details(self) -> ModelDetails:
        return self.entry.details

    @property
    def num_waiting(self) -> int:
        return self._worker.num_waiting

    @property
    def is_busy(self) -> bool:
        return self.num_waiting > 0 or self._counting.is_busy

    @property
    def fault(self) -> str | None:
        return self._worker.fault

    @property
    def pulse(self) -> Pulse:
        return self._worker.pulse

    def abandon(self, reason: str) -> None:
        """See `ImageWorker.abandon`."""
        self._worker.abandon(reason)

    async def count(self, prompt: str, *, strict: bool) -> PromptTokens:
        """With `strict`, raises InvalidRequest where a part would not be read; QueueFull."""
        clip, t5 = await self._counting.run(self._painter.prompt_tokens, prompt, size=len(prompt))
        clip_limit, t5_limit = self._painter.prompt_limits
        tokens = PromptTokens(clip, clip_limit, t5, t5_limit)
        if strict and tokens.is_cut:
            raise InvalidRequest(
                f"The prompt has {t5} tokens, of which {t5_limit} are read. Shorten it, or leave "
                "strict out.",
                "prompt",
            )
        return tokens

    def check_queue(self) -> None:
        """See `ImageWorker.check_queue`: before work that would be in vain."""
        self._worker.check_queue()

    def events(self, request: ImageRequest) -> Painting:
        """See `ImageWorker.events`."""
        return self._worker.events(request)

    def close(self) -> None:
        self._counting.close()
        self._worker.close()
