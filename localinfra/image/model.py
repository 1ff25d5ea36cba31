"""ImageModel: a loaded image pipeline as the API sees it: a request → events with pictures."""

from collections.abc import Callable

import msgspec

from localinfra.errors import InvalidRequest
from localinfra.executor import BoundedExecutor
from localinfra.footprint import NO_MEMORY, Footprint
from localinfra.image.pipeline import FluxPainter
from localinfra.image.request import ImageRequest, check_work
from localinfra.image.worker import ImageWorker, LeftOver, Painting
from localinfra.models.entries import ImageModelEntry, ModelDetails


class PromptTokens(msgspec.Struct, frozen=True):
    """A prompt's length in tokens of each text encoder, and how many of them it reads."""

    clip: int
    clip_limit: int
    t5: int
    t5_limit: int

    @property
    def is_cut(self) -> bool:
        """Whether T5 reads only part of it. CLIP's part sets only the general style, so it doesn't
        count."""
        return self.t5 > self.t5_limit

    @property
    def cuts(self) -> list[str]:
        """The encoders that read only part of it, as `name=read/all`."""
        counts = (("clip", self.clip_limit, self.clip), ("t5", self.t5_limit, self.t5))
        return [f"{name}={limit}/{count}" for name, limit, count in counts if count > limit]


class ImageModel:
    """Owns its worker. Made by `loading.py`, closed by the pool."""

    def __init__(
        self,
        name: str,
        entry: ImageModelEntry,
        painter: FluxPainter,
        max_waiting: int,
        max_megapixel_steps: int | None = None,
    ):
        """`max_megapixel_steps`: of one request; see `ImageRequest.megapixel_steps`."""
        self.name = name
        self.entry = entry
        self.footprint = NO_MEMORY  # until it is measured
        self._painter = painter
        self._max_megapixel_steps = max_megapixel_steps
        self.worker = ImageWorker(painter, name=name, max_waiting=max_waiting)
        self._counting = BoundedExecutor("prompts", 1, max_waiting)  # tokenizers: one thread only

    @property
    def details(self) -> ModelDetails:
        return self.entry.details

    @property
    def is_busy(self) -> bool:
        return self.worker.num_waiting > 0 or self._counting.is_busy

    @property
    def parked(self) -> Footprint | None:
        return self._painter.parked

    def park(self) -> None:
        """Between two images. Raises what torch raises, and ModelUnavailable if closed."""
        self.worker.call(self._painter.park)

    def wake(self) -> None:
        self.worker.call(self._painter.wake)

    async def count(self, prompt: str, *, strict: bool) -> PromptTokens:
        """Counts a prompt's tokens. Raises QueueFull, and with `strict` InvalidRequest if T5 would
        not read the whole prompt."""
        clip, t5 = await self._counting.run(self._painter.prompt_tokens, prompt, size=len(prompt))
        clip_limit, t5_limit = self._painter.prompt_limits
        tokens = PromptTokens(clip, clip_limit, t5, t5_limit)
        if strict and tokens.is_cut:
            raise InvalidRequest(
                f"The prompt has {t5} tokens, but the model reads only {t5_limit}. Shorten it, or "
                "leave out strict.",
                "prompt",
            )
        return tokens

    def check_queue(self, client: str) -> None:
        """See `ImageWorker.check_queue`; call it before work that a full queue would waste."""
        self.worker.check_queue(client)

    def events(self, request: ImageRequest, left: Callable[[LeftOver], None]) -> Painting:
        """See `ImageWorker.events`. Also raises InvalidRequest if it asks for too much."""
        check_work(request, self._max_megapixel_steps)
        return self.worker.events(request, left)

    def close(self) -> None:
        self._counting.close()
        self.worker.close()
