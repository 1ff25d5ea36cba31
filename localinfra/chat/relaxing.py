"""Finds the parts of a schema that keep its grammar from compiling, by compiling part after part.

Compiles nothing itself: the engine does, behind `Problem`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from localinfra.chat.answer import GrammarSource, Tool, arguments_source, source_of, usual_waiver
from localinfra.chat.formats.form import CallForm
from localinfra.chat.formats.generic import GENERIC
from localinfra.chat.messages import Json
from localinfra.chat.schema.keywords import as_map
from localinfra.chat.schema.prepared import Hard, Leniency, Waiver
from localinfra.chat.schema.rules import json_rule
from localinfra.errors import InvalidRequest

MAX_RELAXING_S = 5.0  # per request
MAX_PARTS = 100  # tried per schema
TYPES = {"multipleOf": "number", "patternProperties": "object"}  # other keywords: string

Problem = Callable[[GrammarSource], str | None]  # why it does not compile; None: it does


class Relaxing:
    """The search for one request."""

    def __init__(
        self,
        problem: Problem,
        form: CallForm = GENERIC,
        tokens: Mapping[str, int] = {},
    ):
        """`form` and `tokens` as for `arguments_source`."""
        self._problem = problem
        self._form = form
        self._tokens = tokens
        self._deadline_s = time.monotonic() + MAX_RELAXING_S

    def faults(self, hard: Sequence[Hard]) -> dict[str, str]:
        """Path → problem, for keywords that do not compile even alone."""
        found = {}
        for part in hard[:MAX_PARTS]:
            if time.monotonic() > self._deadline_s:
                break
            try:
                problem = self._problem(alone(part))
            except InvalidRequest as error:
                problem = str(error)
            if problem is not None:
                found[part.path] = problem
        return found

    def waiver(self, tool: Tool) -> Waiver:
        """The least to leave out of a tool's schema so that its grammar compiles."""
        if not tool.has_schema:
            return ANYTHING
        return next((each for each in self._waivers(tool) if self._compiles(tool, each)), ANYTHING)

    def _waivers(self, tool: Tool) -> Iterator[Waiver]:
        """Starts with the usual one; each leaves out more."""
        usual = usual_waiver(tool)
        yield usual
        paths: frozenset[str] = frozenset()
        try:
            paths = frozenset(self.faults(self._source(tool, usual).hard))
        except InvalidRequest:
            pass  # too large, or too deep
        yield Waiver(usual.level, paths)
        parameters = tool.parameters or {}
        for name in list(as_map(parameters.get("properties")))[:MAX_PARTS]:
            if not self._compiles(with_property(tool, name), Waiver(usual.level, paths)):
                paths |= {f"{tool.param}.properties.{name}"}
        yield Waiver(usual.level, paths)
        for key in parameters:
            if key not in ("type", "properties", "$defs", "definitions"):
                yield Waiver(usual.level, paths | {f"{tool.param}.{key}"})
        yield Waiver(Leniency.HARD)

    def _compiles(self, tool: Tool, waiver: Waiver) -> bool:
        try:
            source = self._source(tool, waiver)
        except InvalidRequest:
            return False
        is_late = not source.is_plain and time.monotonic() > self._deadline_s
        return not is_late and self._problem(source) is None

    def _source(self, tool: Tool, waiver: Waiver) -> GrammarSource:
        return arguments_source(tool, waiver, self._form, self._tokens)


ANYTHING = Waiver(Leniency.ALL)


def alone(part: Hard) -> GrammarSource:
    """The grammar of this keyword alone. Raises InvalidRequest."""
    value = part.value
    if isinstance(value, dict):
        value = dict.fromkeys(value, True)
    schema = {"type": TYPES.get(part.key, "string"), part.key: value}
    return source_of(json_rule(schema, part.path, Waiver(Leniency.ONE_OF)))


def with_property(tool: Tool, name: str) -> Tool:
    """The tool with this property only, required."""
    parameters = tool.parameters or {}
    properties = {name: as_map(parameters.get("properties"))[name]}
    less: dict[str, Json] = {"type": "object", "properties": properties, "required": [name]}
    kept = {key: parameters[key] for key in ("$defs", "definitions") if key in parameters}
    return msgspec.structs.replace(tool, parameters={**kept, **less})
