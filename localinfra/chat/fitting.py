"""Finds the form of a conversation that a template accepts: the first it renders in full.

Tries the forms in the sandbox on a sketch, a conversation of the same shape with short texts. This
detects a missing or silently dropped system role, turns that must alternate and ids of nine
letters, however the template is written.
"""

import datetime
import functools
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from localinfra.chat.control_tokens import Brackets, ControlTokens
from localinfra.chat.formats.form import Voice
from localinfra.chat.formats.generic import GENERIC
from localinfra.chat.formats.thinking import ENABLED
from localinfra.chat.forms import SPELLINGS, TURNS, Calls, Form, Spelling, forms
from localinfra.chat.messages import FunctionCall, Json, Message, ToolCall
from localinfra.chat.rendering import Rendering, TemplateFailed
from localinfra.chat.sandbox.environment import CompiledTemplate
from localinfra.chat.sandbox.meter import Deadline, LimitExceeded, Meter
from localinfra.chat.sketch import TOLD, WORD, Sketch, sketched
from localinfra.chat.thoughts import USUAL, Thoughts, candidates
from localinfra.chat.variables import complete, server_values
from localinfra.errors import InvalidRequest

PROBE_S = 0.2  # CPU time; a run usually takes a millisecond
MAX_KNOWN = 1024  # shapes with a cached form

THOUGHT = "Kwthoughtvj"
HI = [Message("user", "Kw0vj")]
CALL = ToolCall(FunctionCall("Kw1vj", '{"k":"v"}'), "call_1")


def _tool(parameters: dict[str, Json]) -> dict[str, Json]:
    function: dict[str, Json] = {"name": "f", "description": "d", "parameters": parameters}
    return {"type": "function", "function": function}


TOOL = _tool({"type": "object", "properties": {"k": {"type": "string", "description": "d"}}})
BARE_TOOLS: list[Json] = [  # valid schemas without what `complete` adds
    _tool({"type": "object"}),
    _tool({"type": "object", "properties": {"a": {}, "b": True}}),
    _tool({"type": "object", "properties": {"a": {"type": ["string", "null"]}}}),
    _tool({"type": "object", "properties": {"a": {"type": "object"}, "b": {"type": "array"}}}),
]


class RenderInput(msgspec.Struct, frozen=True):
    """A conversation to be rendered."""

    messages: Sequence[Message]  # with text or None as content
    instruction: str  # about tools that the template can't describe itself; "" if there are none
    variables: dict[str, Json]  # from the client, besides messages
    given: dict[str, object]  # from the server
    is_continued: bool
    deadline: Deadline
    thoughts: Thoughts = USUAL


class Fitting:
    """Finds and caches the forms that one template accepts. Any thread."""

    def __init__(
        self, compiled: CompiledTemplate, tokens: ControlTokens, source: str, voice: Voice
    ):
        self._compiled = compiled
        self._tokens = tokens
        self._voice = voice
        self._knows_developer = "developer" in source
        self._known: dict[bytes, Form] = {}

    def forms(self, asked: RenderInput, failures: list[InvalidRequest]) -> Iterator[Form]:
        """Yields the forms that fit, the closest to the original first, and adds the errors of
        others to `failures`."""
        is_told = bool(asked.instruction)
        sketch = sketched(asked.messages, is_continued=asked.is_continued, is_told=is_told)
        asked.deadline.check()
        has_tools = bool(is_told or asked.variables["tools"])
        variables = asked.variables
        if variables["tools"]:
            variables = {**variables, "tools": [TOOL]}
        asked = msgspec.structs.replace(
            asked,
            messages=sketch.messages,
            instruction=TOLD if is_told else "",
            variables=variables,
        )
        shape = [sketch.messages, has_tools, variables, asked.given["add_generation_prompt"]]
        key = hashlib.sha256(msgspec.json.encode(shape)).digest()
        if known := self._known.get(key):
            yield known
        for form in self._search(asked, sketch, failures):
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known.setdefault(key, form)
            yield form

    def _search(
        self, asked: RenderInput, sketch: Sketch, failures: list[InvalidRequest]
    ) -> Iterator[Form]:
        seen: set[bytes] = set()
        lossy: set[tuple[Calls, Spelling]] = set()
        is_apart = asked.thoughts.refuses_texts and bool(sketch.mixed)
        worded = GENERIC if self._voice.writes_calls else self._voice.calls
        for form in forms(
            self._spellings, knows_developer=self._knows_developer, plain_calls=worded
        ):
            form = msgspec.structs.replace(form, has_texts_apart=is_apart)
            if (form.calls, form.spelling) in lossy:
                continue
            plain = form.messages(asked.messages, asked.instruction)
            encoded = msgspec.json.encode(plain)
            if encoded in seen:
                continue
            seen.add(encoded)
            try:
                missing = self._missing(asked, sketch, form)
            except TemplateFailed as error:
                failures.append(error)
                continue
            if missing and missing <= sketch.mixed:
                yield from self._apart(asked, sketch, form)
            lost = missing - sketch.beside_calls
            if not lost:
                yield form  # without text beside a call, if the template never shows it
                continue
            failures.append(_left_out(min(sketch.needed[word] for word in lost), asked))
            if lost <= sketch.names:  # other turns won't show these calls either
                lossy.add((form.calls, form.spelling))

    def _apart(self, asked: RenderInput, sketch: Sketch, form: Form) -> Iterator[Form]:
        """The form with texts apart from calls, in the first turns that fit, if any do."""
        apart = msgspec.structs.replace(form, has_texts_apart=True)
        tries = (msgspec.structs.replace(apart, turns=turns) for turns in TURNS)
        yield from itertools.islice((t for t in tries if self._fits(asked, sketch, t)), 1)

    def _fits(self, asked: RenderInput, sketch: Sketch, form: Form) -> bool:
        try:
            return not self._missing(asked, sketch, form)
        except TemplateFailed:
            return False

    def _missing(self, asked: RenderInput, sketch: Sketch, form: Form) -> set[str]:
        """The sketch's words that are missing from the prompt."""
        text = self._run(asked, form)
        return sketch.needed.keys() - WORD.findall(text) if self.shows_texts else set()

    def _run(self, asked: RenderInput, form: Form, *, has_parts: bool | None = None) -> str:
        plain = form.messages(asked.messages, asked.instruction)
        rendering = Rendering(
            compiled=self._compiled,
            tokens=self._tokens,
            given=asked.given,
            variables=asked.variables,
            is_continued=False,
            has_control_tokens=False,
            brackets=Brackets("", "", ""),
            meter=Meter([asked.variables, plain], asked.deadline),
            thoughts=asked.thoughts,
            has_parts=self.has_parts if has_parts is None else has_parts,
        )
        return rendering.run(plain, asked.variables)

    def readable(self, tools: list[Json]) -> list[Json]:
        """The tools as they are, or `complete` if the template fails otherwise."""
        if not tools or self._reads_any_tools or self._passes(HI, Form(), [], tools):
            return tools
        completed = complete(tools)
        return completed if self._passes(HI, Form(), [], completed) else tools

    @functools.cached_property
    def _reads_any_tools(self) -> bool:
        return self._passes(HI, Form(), [], BARE_TOOLS)

    @functools.cached_property
    def has_parts(self) -> bool:
        """Whether the template shows texts in lists of parts alone, as SmolVLM's does."""
        shown = [
            "Kw0vj" in (self._tried(HI, Form(), None, has_parts=has_parts) or "")
            for has_parts in (False, True)
        ]
        return shown == [False, True]

    @functools.cached_property
    def shows_texts(self) -> bool:
        """Whether the template copies texts verbatim; if not, omissions can't be detected."""
        return self._passes(HI, Form(), ["Kw0vj"], self.no_tools)

    @functools.cached_property
    def no_tools(self) -> Json:
        """The value of `tools` when there are none: [] for templates that iterate it regardless."""
        fails = not self._passes(HI, Form(), [], None) and self._passes(HI, Form(), [], [])
        return [] if fails else None

    @functools.cached_property
    def _spellings(self) -> Sequence[Spelling]:
        """Those to try: the first one in which calls and results appear; none if the template
        never shows calls; all if it refuses to render these."""
        if not self._voice.writes_calls:
            return []
        call = Message("assistant", None, tool_calls=[CALL])
        result = Message("tool", "Kw2vj", tool_call_id="call_1")
        asked = [Message("user", "Kw0vj"), call]
        full = [*asked, result]
        has_text = not self._voice.has_null_content
        ids = self._voice.calls.ids
        spellings = [msgspec.structs.replace(spelling, ids=ids) for spelling in SPELLINGS]
        for spelling in sorted(spellings, key=lambda it: it.is_content_text != has_text):
            form = Form(spelling=spelling)
            words = ["Kw0vj", "Kw1vj", "Kw2vj"]
            if self._passes(full, form, words, [TOOL]) and self._passes(asked, form, [], [TOOL]):
                return [spelling]
        renders = any(self._passes(full, Form(spelling=s), [], [TOOL]) for s in spellings)
        return [] if renders else spellings

    @functools.cached_property
    def thoughts(self) -> Thoughts:
        """Where the template shows reasoning, once: beside a call, or else before an answer."""
        result = Message("tool", "Kw2vj", tool_call_id="call_1")
        called = Message("assistant", None, tool_calls=[CALL], reasoning_content=THOUGHT)
        said = Message("assistant", "Kw2vj", reasoning_content=THOUGHT)
        mixed = msgspec.structs.replace(called, content="Kw3vj")
        for thoughts in candidates(self._voice.reasoning):
            turn = self._thinking([called, result], thoughts)
            refuses_texts = bool(turn) and self._thinking([mixed, result], thoughts) is None
            # Some templates leave out calls beside a content.
            if not turn and not (thoughts.marks and self._voice.writes_calls):
                turn = self._thinking([said], thoughts)
            if turn:
                before, _, after = turn.partition(THOUGHT)
                return msgspec.structs.replace(
                    thoughts,
                    has_blank_before=before[-1:].isspace(),
                    has_blank_after=after[:1].isspace(),
                    refuses_texts=refuses_texts,
                )
        return USUAL

    def _thinking(self, messages: Sequence[Message], thoughts: Thoughts) -> str | None:
        """What follows the user's message; "" if it does not show reasoning where it belongs, None
        if the template fails."""
        form = Form(spelling=next(iter(self._spellings), Spelling()))
        texts = [
            self._tried([*HI, *messages], form, [TOOL], flags, thoughts) for flags in ({}, ENABLED)
        ]
        turns = [text.partition("Kw0vj")[2] for text in texts if text is not None]
        shown = (turn for turn in turns if "Kw2vj" in turn and thoughts.is_shown(turn, THOUGHT))
        return next(shown, "" if turns else None)

    def _passes(
        self, messages: Sequence[Message], form: Form, words: Sequence[str], tools: Json
    ) -> bool:
        text = self._tried(messages, form, tools)
        return text is not None and all(word in text for word in words)

    def _tried(
        self,
        messages: Sequence[Message],
        form: Form,
        tools: Json,
        flags: Mapping[str, Json] = {},
        thoughts: Thoughts = USUAL,
        *,
        has_parts: bool | None = None,
    ) -> str | None:
        """The prompt, or None if the template fails. `has_parts`: instead of the template's own."""
        now = datetime.datetime(2000, 1, 1)
        given = server_values(bos_token="", eos_token="", add_generation_prompt=True, now=now)
        asked = RenderInput(
            messages, "", {**flags, "tools": tools}, given, False, Deadline(PROBE_S), thoughts
        )
        try:
            return self._run(asked, form, has_parts=has_parts)
        except (TemplateFailed, LimitExceeded):
            return None


def _left_out(index: int, asked: RenderInput) -> InvalidRequest:
    role = asked.messages[index].role
    if asked.is_continued and index == len(asked.messages) - 1:
        return InvalidRequest(
            "The model's chat template leaves out the last assistant message, so it can't be "
            "continued; send a user message last.",
            "messages",
        )
    return InvalidRequest(
        f"The model's chat template leaves out messages[{index}], whose role is {role}; send its "
        "text in a message of another role, or set another chat_template in models.toml.",
        "messages",
    )
