"""A submitted request's answer as it becomes final: token events → deltas. Event loop only."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from localinfra.engine.output import ChoiceOutput, OutputDelta
from localinfra.engine.request import TokenEvent
from localinfra.executor import give_way

if TYPE_CHECKING:
    from localinfra.engine.generation import Generation  # brings numpy
    from localinfra.engine.sequence import Computed

# Events per turn of the event loop; with twenty logprobs each they take 5 ms.
AT_ONCE = 8


class Deltas:
    """An async iterator over what each choice gained since the last item.

    The request is queued already. Always close this, even if never iterated: that frees the slots
    of its choices at the engine's next step. Iterating raises EngineFailed if the engine fails.
    """

    def __init__(
        self,
        generation: "Generation",
        outputs: Sequence[ChoiceOutput],
    ):
        """`outputs`: one per choice."""
        self._generation = generation
        self._steps = aiter(generation)
        self._outputs = outputs
        self._events: list[TokenEvent] = []  # of the last step, not yet processed
        self._unended = set(range(len(outputs)))  # choices
        self._left: Callable[[Mapping[int, Computed]], None] | None = None
        self._settling: asyncio.Task[None] | None = None

    def when_left(self, left: "Callable[[Mapping[int, Computed]], None]") -> None:
        """If this is closed before its end, `left` gets what was computed for each choice that has
        not ended, whether its events were read or not."""
        self._left = left

    def __aiter__(self) -> "Deltas":
        return self

    async def __anext__(self) -> list[OutputDelta]:
        if self._events:
            await give_way()
        else:
            self._events = await anext(self._steps)
        events, self._events = self._events[:AT_ONCE], self._events[AT_ONCE:]
        deltas = [delta for event in events if (delta := self._outputs[event.choice].push(event))]
        for delta in deltas:
            if delta.finish_reason is not None:
                self._unended.discard(delta.choice)
                self._generation.stop(delta.choice)
        return deltas

    async def aclose(self) -> None:
        """Returns once all is counted: where choices have not ended, after the engine's step."""
        self._generation.close()
        await self._steps.aclose()
        if self._unended and self._left:
            # Whoever closes this may be cancelled again.
            self._settling = self._settling or asyncio.create_task(self._settle(self._left))
            await asyncio.shield(self._settling)

    async def _settle(self, left: "Callable[[Mapping[int, Computed]], None]") -> None:
        computed = await self._generation.computed()
        unended = {choice: computed[choice] for choice in self._unended if choice < len(computed)}
        if unended:
            left(unended)
