"""Rewrites a conversation into the forms that different templates need. Text only; runs nothing.

Some templates have no system role, some require users and assistants to alternate, or one call per
message, or ids of nine letters. All forms say the same; `template.py` uses the first that fits.
"""

import hashlib
import itertools
import re
import string
from collections.abc import Collection, Iterator, Sequence
from typing import Literal

import msgspec

from localinfra.chat.formats.form import INDEX, NAME, CallForm
from localinfra.chat.formats.generic import GENERIC, as_plain_messages, instructed
from localinfra.chat.messages import Message, Plain, normalize

SHORT_ID = re.compile("[A-Za-z0-9]{9}")
ID_CHARACTERS = string.digits + string.ascii_letters
ROLES_OF_SYSTEM = ("system", "developer")

# Calls and their results: as sent · one call per message · unpaired ones as text · all as text.
Calls = Literal["given", "single", "orphans_plain", "plain"]
# Turns: as sent · neighbours merged · also a user first · also an empty answer between a result and
# a user · or the user's text appended to the result.
Turns = Literal["given", "joined", "led", "bridged", "appended"]
# System messages: as sent · developer ones renamed · merged at the start · in the first user turn.
System = Literal["given", "renamed", "first", "in_user"]


class Spelling(msgspec.Struct, frozen=True):
    """How calls are spelled for the template."""

    has_short_ids: bool = False  # nine letters or digits, as Mistral requires
    is_content_text: bool = False  # beside calls an empty text, not None
    parses_arguments: bool = True  # an object if they are valid JSON of one
    ids: str = ""  # `CallForm.ids`


class Form(msgspec.Struct, frozen=True):
    calls: Calls = "given"
    turns: Turns = "given"
    system: System = "given"
    spelling: Spelling = Spelling()
    has_texts_apart: bool = False  # a text beside calls has a message of its own
    plain_calls: CallForm = GENERIC  # of calls as plain text

    def messages(self, messages: Sequence[Message], instruction: str = "") -> list[Plain]:
        """The messages for the template. `instruction`: about tools, for a system message."""
        changed = instructed(_with_calls(messages, self), instruction)
        if self.has_texts_apart:
            changed = [part for message in changed for part in _apart(message)]
        system: list[Message] = []
        if self.system == "renamed":
            changed = [_as_system(message) for message in changed]
        elif self.system != "given":
            system = [message for message in changed if message.role in ROLES_OF_SYSTEM]
            changed = [message for message in changed if message.role not in ROLES_OF_SYSTEM]
        changed = _with_turns(changed, self.turns)
        if system:
            changed = _with_system(changed, _join(system), self.system == "in_user")
        if self.spelling.has_short_ids:
            changed = _with_short_ids(changed)
        if self.spelling.ids:
            changed = _with_named_ids(changed, self.spelling.ids)
        plain = normalize(changed, parse_arguments=self.spelling.parses_arguments)
        if self.spelling.is_content_text:
            return [{**message, "content": message["content"] or ""} for message in plain]
        return [
            {**message, "content": message["content"] or None}
            if "tool_calls" in message
            else message
            for message in plain
        ]


SPELLINGS = [
    Spelling(short, text, parse)
    for short, text, parse in itertools.product((False, True), (False, True), (True, False))
]
TURNS: tuple[Turns, ...] = ("given", "joined", "led", "bridged", "appended")


def forms(
    spellings: Sequence[Spelling], *, knows_developer: bool, plain_calls: CallForm = GENERIC
) -> Iterator[Form]:
    """From the original to the most altered; the last has alternating user and assistant turns of
    plain text, which every template accepts. No `spellings`: the template shows no calls."""
    calls: list[Calls] = ["given", "single", "orphans_plain", "plain"] if spellings else ["plain"]
    system: list[System] = ["given", "renamed", "first", "in_user"]
    if not knows_developer:
        system.remove("given")
    for call, spelling, turn, place in itertools.product(
        calls, spellings or [Spelling()], TURNS, system
    ):
        yield Form(call, turn, place, spelling, plain_calls=plain_calls)


# Calls and results


def _with_calls(messages: Sequence[Message], form: Form) -> list[Message]:
    if form.calls == "plain":
        return as_plain_messages(messages, form=form.plain_calls)
    if form.calls == "orphans_plain":
        return as_plain_messages(messages, _without_partner(messages))
    if form.calls == "single":
        return [part for run in _rounds(messages) for part in _one_by_one(run)]
    return [*messages]


def _apart(message: Message) -> list[Message]:
    if not message.tool_calls or not message.content:
        return [message]
    said = msgspec.structs.replace(message, tool_calls=None, reasoning_content=None)
    return [said, msgspec.structs.replace(message, content=None)]


def _rounds(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Groups each message with calls and the results right after it; others stand alone."""
    at = 0
    while at < len(messages):
        stop = at + 1
        if messages[at].tool_calls:
            while stop < len(messages) and messages[stop].role == "tool":
                stop += 1
        yield [*messages[at:stop]]
        at = stop


def _pairs(run: Sequence[Message]) -> dict[int, int]:
    """Index of a call → index of its result in `run`, matched by id or else by order."""
    calls = run[0].tool_calls or ()
    by_id: dict[str | None, list[int]] = {}
    for at, result in reversed([*enumerate(run)][1:]):
        by_id.setdefault(result.tool_call_id, []).append(at)
    found: dict[int, int] = {}
    for index, call in enumerate(calls):
        same = by_id.get(call.id) or by_id.get(None)
        if same:
            found[index] = same.pop()
    return found


def _one_by_one(run: list[Message]) -> Iterator[Message]:
    first = run[0]
    if len(first.tool_calls or ()) < 2:
        yield from run
        return
    pairs = _pairs(run)
    for index, call in enumerate(first.tool_calls or ()):
        said = first if index == 0 else Message("assistant", None)
        yield msgspec.structs.replace(said, tool_calls=[call])
        if index in pairs:
            yield run[pairs[index]]
    answered = set(pairs.values())
    yield from (run[at] for at in range(1, len(run)) if at not in answered)


def _without_partner(messages: Sequence[Message]) -> set[int]:
    """Indices of results without a call before them, and of whole rounds in which a call has no
    result."""
    alone: set[int] = set()
    at = 0
    for run in _rounds(messages):
        indices = range(at, at + len(run))
        if run[0].tool_calls:
            pairs = _pairs(run)
            if len(pairs) < len(run[0].tool_calls):
                alone.update(indices)
            else:
                answered = {0, *pairs.values()}
                alone.update(i for i in indices if i - at not in answered)
        elif run[0].role == "tool":
            alone.update(indices)
        at += len(run)
    return alone


def _with_short_ids(messages: Sequence[Message]) -> list[Message]:
    """Replaces each id with nine letters or digits, consistently. A result without an id gets that
    of the next call."""
    given = [call.id for message in messages for call in message.tool_calls or ()]
    given += [message.tool_call_id for message in messages if message.role == "tool"]
    shorts = _shorts(id for id in given if id is not None)
    changed: list[Message] = []
    waiting: list[str] = []  # ids of calls still without a result, the last one first
    for at, message in enumerate(messages):
        if message.tool_calls:
            calls = [
                msgspec.structs.replace(
                    call, id=_digest(f"{at} {i}") if call.id is None else shorts[call.id]
                )
                for i, call in enumerate(message.tool_calls)
            ]
            waiting = [call.id for call in reversed(calls) if call.id is not None]
            message = msgspec.structs.replace(message, tool_calls=calls)
        elif message.role == "tool":
            if message.tool_call_id is not None:
                short = shorts[message.tool_call_id]
            else:
                short = waiting[-1] if waiting else _digest(f"{at}")
            if waiting and waiting[-1] == short:
                waiting.pop()
            message = msgspec.structs.replace(message, tool_call_id=short)
        changed.append(message)
    return changed


def _with_named_ids(messages: Sequence[Message], form: str) -> list[Message]:
    """Ids that hold the name of the function and count the calls, as the model writes them."""
    named: dict[str | None, str] = {}
    waiting: list[str] = []  # ids of calls still without a result
    num_calls = itertools.count()
    changed: list[Message] = []
    for message in messages:
        if message.tool_calls:
            calls = []
            for call in message.tool_calls:
                id = form.replace(NAME, call.function.name).replace(INDEX, str(next(num_calls)))
                named[call.id] = id
                calls.append(msgspec.structs.replace(call, id=id))
            waiting = [str(call.id) for call in calls]
            message = msgspec.structs.replace(message, tool_calls=calls)
        elif message.role == "tool":
            given = message.tool_call_id
            known = waiting[:1] if given is None else [named[given]] if given in named else []
            waiting = [id for id in waiting if id not in known]
            message = msgspec.structs.replace(message, tool_call_id=next(iter(known), given))
        changed.append(message)
    return changed


def _shorts(ids: Iterator[str]) -> dict[str, str]:
    """An id → its short form, derived from the id alone unless two would collide."""
    distinct = [*dict.fromkeys(ids)]
    shorts = {id: id for id in distinct if SHORT_ID.fullmatch(id)}
    taken = set(shorts)
    for id in distinct:
        if id not in shorts:
            tries = (_digest(id + "\0" * attempt) for attempt in itertools.count())
            shorts[id] = next(short for short in tries if short not in taken)
            taken.add(shorts[id])
    return shorts


def _digest(id: str) -> str:
    data = hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=9).digest()
    return "".join(ID_CHARACTERS[byte % len(ID_CHARACTERS)] for byte in data)


# Turns


def _with_turns(messages: list[Message], turns: Turns) -> list[Message]:
    if turns == "given":
        return messages
    messages = _joined(messages)
    if turns == "joined":
        return messages
    first = next((m for m in messages if m.role not in ROLES_OF_SYSTEM), None)
    if first is not None and first.role != "user":
        at = messages.index(first)
        messages = [*messages[:at], Message("user", ""), *messages[at:]]
    if turns == "bridged":
        return [
            part
            for before, message in itertools.pairwise([None, *messages])
            for part in _bridged(before, message)
        ]
    if turns == "appended":
        return _appended(messages)
    return messages


def _bridged(before: Message | None, message: Message | None) -> list[Message]:
    assert message is not None
    is_gap = before is not None and (before.role, message.role) == ("tool", "user")
    return [Message("assistant", ""), message] if is_gap else [message]


def _appended(messages: Sequence[Message]) -> list[Message]:
    changed: list[Message] = []
    for message in messages:
        if changed and (changed[-1].role, message.role) == ("tool", "user"):
            content = _blank_line_between([changed[-1], message])
            changed[-1] = msgspec.structs.replace(changed[-1], content=content)
        else:
            changed.append(message)
    return changed


def _joined(messages: Sequence[Message]) -> list[Message]:
    """Merges neighbours of one role, except results of calls, which stay separate. Drops empty
    assistant messages, except the last one, which may be continued."""
    last = messages[-1] if messages else None
    kept = [message for message in messages if message is last or not _is_silent(message)]
    changed: list[Message] = []
    for role, group in itertools.groupby(kept, lambda message: message.role):
        together = [*group]
        changed += together if role == "tool" else _runs(together)
    return changed


def _runs(group: Sequence[Message]) -> Iterator[Message]:
    """Joins messages; one with calls ends a run, since its results come next."""
    run: list[Message] = []
    for message in group:
        run.append(message)
        if message.tool_calls:
            yield _join(run)
            run = []
    if run:
        yield _join(run)


def _is_silent(message: Message) -> bool:
    said = message.content, message.tool_calls, message.reasoning_content
    return message.role == "assistant" and not any(said)


def _join(messages: Sequence[Message]) -> Message:
    if len(messages) == 1:
        return messages[0]
    thoughts = [m.reasoning_content for m in messages if m.reasoning_content]
    calls = [call for message in messages for call in message.tool_calls or ()]
    return Message(
        messages[0].role,
        _blank_line_between(messages) or (None if calls else ""),
        name=messages[0].name,
        tool_calls=calls or None,
        reasoning_content="\n\n".join(thoughts) or None,
    )


def _blank_line_between(messages: Collection[Message]) -> str:
    return "\n\n".join(str(message.content) for message in messages if message.content)


# System messages


def _as_system(message: Message) -> Message:
    if message.role != "developer":
        return message
    return msgspec.structs.replace(message, role="system")


def _with_system(messages: list[Message], system: Message, in_user: bool) -> list[Message]:
    if not in_user:
        return [msgspec.structs.replace(system, role="system"), *messages]
    at = next((i for i, message in enumerate(messages) if message.role == "user"), None)
    if at is None:
        return [Message("user", system.content), *messages]
    content = _blank_line_between([system, messages[at]])
    headed = msgspec.structs.replace(messages[at], content=content)
    return [*messages[:at], headed, *messages[at + 1 :]]
