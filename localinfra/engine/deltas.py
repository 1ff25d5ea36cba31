"""A submitted request's answer as it becomes final: token events → deltas. Event loop only."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from localinfra.engine.output import ChoiceOutput, OutputDelta
from localinfra.engine.request import TokenEvent
from localinfra.executor import give_way

if TYPE_CHECKING:
    from localinfra.engine.generation import Generation  # brings numpy

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
                self._generation.stop(delta.choice)
        return deltas

    async def aclose(self) -> None:
        self._generation.close()
        await self._steps.aclose()
