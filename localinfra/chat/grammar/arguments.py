"""Arguments as one object, or one by one as `Members` says: each value is held to its schema."""

import re
from collections.abc import Callable, Collection, Sequence

from localinfra.chat.formats.form import KEY, TYPE, CallForm, Members
from localinfra.chat.formats.patterns import reads_back
from localinfra.chat.grammar.lark import ANY_TEXT, CHOSEN, Element, LarkWriter, alternatives, quoted
from localinfra.chat.grammar.literals import (
    JSON,
    Literals,
    arranged,
    is_delegated,
    items_of,
    laid_out,
    repeated,
)
from localinfra.chat.messages import Json
from localinfra.chat.schema.choices import Choice, Field, LeaveOut, SchemaChoices
from localinfra.chat.schema.keywords import TYPES
from localinfra.chat.schema.prepared import Leniency, Waiver
from localinfra.chat.schema.rules import MAX_PLAIN_CHARS, Rule, enforceable
from localinfra.errors import InvalidRequest, UnsupportedParameter


def arguments_rule(
    schema: dict[str, Json], path: str, waiver: Waiver, form: CallForm, lark: LarkWriter
) -> Rule:
    """May add rules to `lark`, to which the result refers. Raises the same errors as
    `enforceable`."""
    found = enforceable(schema, path, waiver)
    if not form.members and is_delegated(form):
        text = laid_out(found.schema, form.layout)
        return Rule(text, found.left_out, found.is_plain, found.hard)
    left_out = list(found.left_out)

    def leave_out(at: str) -> None:
        if waiver.level < Leniency.UNKNOWN:
            raise UnsupportedParameter(
                "This can't be enforced in the form in which the model writes arguments; "
                "simplify it.",
                at,
            )
        left_out.append(at)

    num_chars = lark.num_chars
    choices = SchemaChoices(found.schema, leave_out)
    literals = Literals(form, lark, found.schema, choices, leave_out)
    try:
        if form.members is None:
            text = literals.value(found.schema, path)
        else:
            writer = ArgumentsWriter(form, form.members, lark, choices, literals, leave_out)
            text = lark.rule(writer.arguments(found.schema, path))
    except RecursionError:
        raise InvalidRequest("The schema is nested too deeply.", path) from None
    is_plain = found.is_plain and lark.num_chars - num_chars <= MAX_PLAIN_CHARS
    return Rule(text, tuple(dict.fromkeys(left_out)), is_plain, found.hard)


class ArgumentsWriter:
    """Writes the rules of one function's arguments."""

    def __init__(
        self,
        form: CallForm,
        members: Members,
        lark: LarkWriter,
        choices: SchemaChoices,
        literals: Literals,
        leave_out: LeaveOut,
    ):
        self._members = members
        self._following = f"{members.separator[:1]}{form.after[:1]}"  # begins what follows a value
        self._lark = lark
        self._choices = choices
        self._literals = literals
        self._leave_out = leave_out
        # Rules by the id of their schema, which is kept lest another one gets its id.
        self._tags: dict[tuple[int, str], tuple[str, Json]] = {}

    def arguments(self, schema: dict[str, Json], path: str) -> str:
        found = self._choices.of(schema, path)
        return alternatives(self._fields(choice) for choice in found)

    def _fields(self, choice: Choice) -> str:
        found, others = self._choices.fields(choice)
        named = [field for field in found if reads_back(field.name, self._members.before)]
        for field in found:
            if field not in named:
                self._leave_out(field.path)
        # The separator is one literal with the mark that follows: llguidance reads the longest
        # literal, and that of the end of a call may begin with the same characters.
        separator = self._members.separator
        items = [
            Element(
                self._named(field.name, field.schema, field.path),
                self._named(field.name, field.schema, field.path, separator),
                field.is_required,
            )
            for field in arranged(named, self._members.order)
        ]
        other = None
        if others is not False:
            path = f"{choice.path}.additionalProperties"
            other = Element(
                self._other(named, others, path), self._other(named, others, path, separator)
            )
        return self._lark.sequence(items, other, is_mixed=self._members.order != "given")

    def _named(self, name: str, schema: Json, path: str, separator: str = "") -> str:
        """An argument of this name, or a list's item."""
        before, after = separator + self._members.before, self._members.after
        return self._tagged(
            self._lark.literal, before.replace(KEY, name), schema, path, after.replace(KEY, name)
        )

    def _other(self, named: Sequence[Field], schema: Json, path: str, separator: str = "") -> str:
        """An argument of any name but these."""
        known = " | ".join(quoted(field.name) for field in named)
        name = self._lark.terminal(f"{CHOSEN[KEY]} & ~({known})" if known else CHOSEN[KEY])

        def literal(before: str) -> str:
            return f" {name} ".join(map(self._lark.literal, before.split(KEY)))

        before = separator + self._members.before
        return self._tagged(literal, before, schema, path, self._members.after)

    def _tagged(
        self, literal: Callable[[str], str], before: str, schema: Json, path: str, after: str
    ) -> str:
        """A value between its marks; `literal` writes the one before."""
        kinds = self._choices.kinds(schema)
        marks = {before.replace(TYPE, self._spelled_type(kind)) for kind in kinds}
        says_more = isinstance(schema, dict) and schema.keys() != {"type"}
        if isinstance(schema, dict) and says_more and len(marks) == 1 and self._are_json(kinds):
            value = self._literals.json(schema, path)
            return self._lark.rule(f"{literal(*marks)} {value} {self._lark.literal(after)}")
        choices = self._choices.of(schema, path)
        if TYPE in before and choices[0].kind == "any":
            choices = [Choice(kind, {}, path) for kind in TYPES if kind != "integer"]
        groups: dict[str, list[Choice]] = {}  # by the mark before
        for choice in choices:
            mark = before.replace(TYPE, self._spelled_type(choice.kind))
            groups.setdefault(mark, []).append(choice)
        found = [f"{literal(mark)} {self._value(group, after)}" for mark, group in groups.items()]
        return self._lark.rule(alternatives(found))

    def _are_json(self, kinds: Collection[str]) -> bool:
        """Whether all such values are written in JSON."""
        members = self._members
        has_words = members.words != JSON.words and not {"boolean", "null"}.isdisjoint(kinds)
        is_json = self._literals.is_delegated and not members.item
        return is_json and not has_words and "string" not in kinds

    def _spelled_type(self, kind: str) -> str:
        types = self._members.types
        return types.get(kind) or types.get("number" if kind == "integer" else kind, kind)

    def _value(self, choices: Sequence[Choice], end: str) -> str:
        """A value of one of these kinds, and the mark after it."""
        members = self._members
        texts = [choice for choice in choices if choice.kind in ("string", "any")]
        if not texts:
            return self._with_mark(choices, end)
        if members.quotes[0] and members.quotes_always:
            is_raw = not members.has_escapes and members.literals != "bare"
            return self._raw(choices, end) if is_raw else self._with_mark(choices, end)
        # Bare text can be told from other values only where all are regular expressions.
        expressions = [self._expression(choice) for choice in choices]
        regular = [text for text in expressions if text is not None]
        others = [choice for choice, text in zip(choices, expressions, strict=True) if text is None]
        is_open = any(choice.values is None for choice in texts)
        if ANY_TEXT in regular or (others and is_open):
            if ANY_TEXT not in regular:
                self._leave_out(texts[0].path)
            regular, others = [ANY_TEXT], []
        text = " | ".join(regular)
        found = [self._with_mark(others, end)] if others else []
        if members.quotes[0]:
            begin = self._lark.literal(members.quotes[0])
            quoted_text = self._lark.up_to(members.quotes[1], text, is_open=is_open)
            found.append(f"{begin} {quoted_text} {self._lark.literal(end)}")
            text = f"({text}) & ~({begin} {ANY_TEXT})"
        return self._lark.rule(alternatives([self._lark.up_to(end, text, is_open=is_open), *found]))

    def _raw(self, choices: Sequence[Choice], end: str) -> str:
        """A text in quotes without escapes, or something else."""
        path = choices[0].path
        if choices[0].kind == "any":
            choices = [Choice(kind, {}, path) for kind in TYPES if kind != "integer"]
        texts = [choice for choice in choices if choice.kind == "string"]
        others = [choice for choice in choices if choice.kind != "string"]
        opening, closing = self._members.quotes
        expression = " | ".join(map(self._literals.expression, texts))
        if end or len(closing) > 1:
            is_open = any(choice.values is None for choice in texts)
            text = self._lark.up_to(closing + end, expression, is_open=is_open)
        else:
            # It may contain the quote, but where something else could follow it.
            quote, following = re.escape(closing), re.escape(self._following)
            inner = f"/([^{quote}]|{quote}+[^{quote}{following}])*{quote}*/"
            text = self._lark.terminal(f"(({expression}) & {inner}) {quoted(closing)}")
        found = [f"{self._lark.literal(opening)} {text}"]
        if others:
            found.append(self._with_mark(others, end))
        return self._lark.rule(alternatives(found))

    def _expression(self, choice: Choice) -> str | None:
        if choice.kind == "any":
            return ANY_TEXT
        if choice.kind == "string":
            return self._literals.expression(choice)
        return self._literals.scalar(choice, self._members.words)

    def _with_mark(self, choices: Sequence[Choice], end: str) -> str:
        value = self._lark.rule(alternatives(map(self._element, choices)))
        return f"{value} {self._lark.literal(end)}"

    def _element(self, choice: Choice) -> str:
        is_nested = self._members.item and choice.kind in ("array", "object")
        if not is_nested or choice.values is not None:
            return self._literals.elements(choice, is_argument=True)
        key = (id(choice.schema), choice.kind)
        if key not in self._tags:
            name = self._lark.reserved()
            self._tags[key] = name, choice.schema
            self._lark.define(name, self._nested(choice))
        return self._tags[key][0]

    def _nested(self, choice: Choice) -> str:
        if choice.kind == "object":
            return self._fields(choice)
        items, least, most = items_of(choice, self._leave_out)
        item = self._named(self._members.item, items, f"{choice.path}.items")
        return repeated(item, least, most)
