"""How the model behind a template answers: chosen by the template, or learned by running it.

Runs the template within limits; `formats/` compares what it renders.
"""

import datetime
import logging
from collections.abc import Mapping, Sequence

import msgspec

from localinfra.chat.formats import harmony
from localinfra.chat.formats.derived import DerivedCalls, calls_of, turn_of
from localinfra.chat.formats.form import Voice, excess_of
from localinfra.chat.formats.generic import GENERIC
from localinfra.chat.formats.probes import NotDerived, Probes
from localinfra.chat.formats.thinking import content_mark, reasoning_of
from localinfra.chat.formats.worded import worded_form
from localinfra.chat.messages import Json, Plain
from localinfra.chat.sandbox.environment import SANDBOX, CompiledTemplate
from localinfra.chat.sandbox.meter import Deadline, LimitExceeded, Meter
from localinfra.chat.variables import server_values, with_functions

logger = logging.getLogger(__name__)

PROBES_S = 0.5  # CPU time of all probes; 70 published templates take 1 to 80 ms


def voice_of(source: str, compiled: CompiledTemplate, bos_token: str, eos_token: str) -> Voice:
    """Takes milliseconds and never much more than PROBES_S. If the template's calls can't be
    learned, the generic form is used; if its reasoning can't, that is content. Warnings say why."""
    if harmony.recognizes(source):
        return harmony.HARMONY
    try:
        return _limited(_learned(Probes(_Runs(compiled, bos_token, eos_token)), source))
    except (NotDerived, LimitExceeded) as error:
        logger.warning(
            "The chat template's own form of tool calls can't be learned, so the model is asked to "
            "write them in a generic form: %s",
            error,
        )
        return Voice(GENERIC, takes_tools=False)


def _learned(probes: Probes, source: str) -> Voice:
    """Raises NotDerived and LimitExceeded."""
    turn = turn_of(probes)
    if turn is None:
        return Voice(GENERIC, takes_tools=False)
    calls: DerivedCalls | None = calls_of(probes, turn, source)
    reasoning = reasoning_of(probes, turn, calls, source)
    if calls is None:
        worded = worded_form(probes.instruction)
        return Voice(
            worded or GENERIC,
            takes_tools=worded is not None,
            reasoning=reasoning,
            content=content_mark(turn, reasoning, ""),
        )
    return Voice(
        calls.form,
        takes_tools=probes.describes_tools,
        reasoning=reasoning,
        content=content_mark(turn, reasoning, calls.begun),
        content_end=calls.content_end,
        writes_calls=True,
        begun=calls.begun,
        has_null_content=calls.style.content is None,
    )


def _limited(voice: Voice) -> Voice:
    """Without marks that take long to look for. Raises NotDerived."""
    if problem := excess_of(voice.reasoning):
        logger.warning(
            "The chat template's marks of reasoning can't be used, so it becomes part of the "
            "content: %s",
            problem,
        )
        voice = msgspec.structs.replace(voice, reasoning=None)
    if problem := excess_of(voice):
        raise NotDerived(problem)
    return voice


class _Runs:
    """Renders probes, all of them within one budget."""

    def __init__(self, compiled: CompiledTemplate, bos_token: str, eos_token: str):
        self._compiled = compiled
        self._bos_token = bos_token
        self._eos_token = eos_token
        self._deadline = Deadline(PROBES_S)

    def __call__(
        self,
        messages: Sequence[Plain],
        tools: Sequence[Json] = (),
        *,
        is_prompt: bool = False,
        flags: Mapping[str, Json] = {},
    ) -> str | None:
        given = server_values(
            bos_token=self._bos_token,
            eos_token=self._eos_token,
            add_generation_prompt=is_prompt,
            now=datetime.datetime(2000, 1, 1),
        )
        read = with_functions({**flags, "tools": [*tools]}, self._compiled.variables)
        values = {**given, **read, "messages": [*messages]}
        try:
            return SANDBOX.run(self._compiled.template, values, Meter(values, self._deadline), "")
        except Exception:  # what the template was not made for; another probe may suit it
            return None
