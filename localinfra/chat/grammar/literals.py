"""Values in the spelling of one form: JSON, JSON in ASCII, Python, or the bare one of Gemma."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from localinfra.chat.formats.form import KEY, CallForm, Layout, Members, Order, in_order
from localinfra.chat.grammar.lark import CHOSEN, Element, LarkWriter, alternatives, quoted, regex
from localinfra.chat.grammar.texts import ANY_CHARACTER, FORMATS, text_expression
from localinfra.chat.messages import Json
from localinfra.chat.schema.choices import Choice, Field, LeaveOut, SchemaChoices
from localinfra.chat.schema.keywords import BOUNDS, as_map, inside
from localinfra.chat.schema.rules import WRITING, json_text

# Of as many digits as a parser can take for a number.
INTEGER = "/-?(0|[1-9][0-9]{0,17})/"
NUMBER = r"/-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?/"
LINE = r"\n {0,64}"
JSON = Members("", "", quotes=('"', '"'), has_escapes=True)  # what a whole object is made of
MAX_GRAMMAR_CHARS = 512 * 1024  # beyond, schemas with references are left out


class Quoting(NamedTuple):
    """A way to write texts with escapes."""

    quote: str
    plain: str  # the regular expression of a character as it is
    unit: str  # and of one that may be an escape

    @property
    def text(self) -> str:
        """The regular expression of any text."""
        return f"{self.quote}{self.unit}*{self.quote}"


HEX = "[0-9A-Fa-f]"
PAIR = rf"[dD][89ABab]{HEX}{{2}}\\u[dD][C-Fc-f]{HEX}{{2}}"  # of surrogates
JSON_ESCAPE = rf'["\\\/bfnrt]|u(?:[0-9A-CEFa-cef]{HEX}{{3}}|[dD][0-7]{HEX}{{2}}|{PAIR})'
PYTHON_ESCAPE = rf"x{HEX}{{2}}|u{HEX}{{4}}|U{HEX}{{8}}|[^xuU]"


def quoting(quote: str, plain: str, escape: str) -> Quoting:
    return Quoting(quote, plain, rf"(?:{plain}|\\(?:{escape}))")


IN_JSON = [quoting('"', r'[^"\\\x00-\x1f]', JSON_ESCAPE)]
IN_PYTHON = [quoting(quote, rf"[^{quote}\\]", PYTHON_ESCAPE) for quote in "'\""]
QUOTINGS: dict[str, list[Quoting]] = {"json": IN_JSON, "python": IN_PYTHON, "bare": []}


class Literals:
    """Writes the rules of values."""

    def __init__(
        self,
        form: CallForm,
        lark: LarkWriter,
        root: dict[str, Json],
        choices: SchemaChoices,
        leave_out: LeaveOut,
    ):
        self._members = members = form.members or JSON
        self._layout = form.layout
        self._lark = lark
        self._root = root
        self._choices = choices
        self._leave_out = leave_out
        self.is_delegated = is_delegated(form)
        self._is_python = members.literals == "python"
        self._comma, self._colon = form.layout.comma, form.layout.colon
        self._quotings = QUOTINGS[members.literals]
        # Inside of lists and objects.
        self._words = JSON.words if members.literals == "json" else members.words
        # Rules by the id of their schema, which is kept lest another one gets its id.
        self._rules: dict[tuple[int, str], tuple[str, Json]] = {}
        self._any = ""

    def elements(self, choice: Choice, *, is_argument: bool = False) -> str:
        """Elements that match the values, with no mark after them. `is_argument`: not inside a
        list or an object."""
        words = self._members.words if is_argument else self._words
        if (expression := self.scalar(choice, words)) is not None:
            return self._lark.rule(expression)
        if choice.kind in ("integer", "number"):
            kept = {key: choice.schema[key] for key in NUMERIC if key in choice.schema}
            return self.json({**kept, "type": choice.kind}, choice.path)
        if choice.kind in self._members.json_kinds and is_argument:
            return self.json({**choice.schema, "type": choice.kind}, choice.path)
        is_text = choice.kind == "string"
        if self.is_delegated:
            known = {} if choice.kind == "any" or choice.values else {"type": choice.kind}
            return self.json({**choice.schema, **known}, choice.path)
        if choice.values is not None and not is_text:
            return self._lark.rule(
                " | ".join(self._lark.literal(self.spelled(value)) for value in choice.values)
            )
        if choice.kind == "any":
            return self._lark.rule(
                alternatives([*map(quoted, filter(None, words)), self._anything()])
            )
        key = (id(choice.schema), choice.kind)
        if key not in self._rules:
            self._rules[key] = self._lark.reserved(), choice.schema
            self._lark.define(self._rules[key][0], self._composed(choice))
        return self._rules[key][0]

    def scalar(self, choice: Choice, words: tuple[str, str, str]) -> str | None:
        """The regular expression of a number or a word, None if it is none or has limits."""
        if choice.kind in ("boolean", "null"):
            values = choice.values or ([None] if choice.kind == "null" else [True, False])
        elif choice.kind in ("integer", "number"):
            if not choice.values:
                regex = INTEGER if choice.kind == "integer" else NUMBER
                return None if choice.schema.keys() & set(NUMERIC) else regex
            values = choice.values
        else:
            return None
        spelled = [
            words[2 if value is None else int(not value)]
            if value is None or isinstance(value, bool)
            else json.dumps(value)
            for value in values
        ]
        return " | ".join(json.dumps(text, ensure_ascii=False) for text in spelled)

    def json(self, schema: dict[str, Json], path: str) -> str:
        """A schema from inside the root, in JSON."""
        if any(isinstance(part, dict) and "$ref" in part for part in inside(schema)):
            if self._lark.num_chars > MAX_GRAMMAR_CHARS:
                self._leave_out(path)
                schema = {"type": schema["type"]} if "type" in schema else {}
            else:
                definitions = reachable(schema, as_map(self._root.get("$defs")))
                schema = {**schema, "$defs": definitions}
        return self._lark.rule(laid_out(schema, self._layout))

    def spelled(self, value: Json) -> str:
        """A value in a spelling other than usual JSON."""
        if value is None or isinstance(value, bool):
            return self._words[2 if value is None else int(not value)]
        if isinstance(value, str):
            if self._quotings:
                is_ascii = self._layout.is_ascii
                return repr(value) if self._is_python else json.dumps(value, ensure_ascii=is_ascii)
            return value.join(self._members.quotes)
        if isinstance(value, list):
            return f"[{self._comma.join(map(self.spelled, value))}]"
        if isinstance(value, dict):
            names = in_order(value, self._layout.order)
            items = [self._key(name) + self.spelled(value[name]) for name in names]
            return "{" + self._comma.join(items) + "}"
        return json.dumps(value)

    def _key(self, name: str) -> str:
        return (self.spelled(name) if self._quotings else name) + self._colon

    @property
    def _quoted_regex(self) -> str:
        """Of any text in quotes."""
        return regex("|".join(each.text for each in self._quotings))

    def _composed(self, choice: Choice) -> str:
        if choice.kind == "array":
            return f'"[" {self._items(choice)} "]"'
        if choice.kind == "object":
            return f'"{{" {self._lark.rule(self._fields(choice))} "}}"'
        return self._text(choice)

    def value(self, schema: Json, path: str) -> str:
        found = [self.elements(choice) for choice in self._choices.of(schema, path)]
        return found[0] if len(found) == 1 else self._lark.rule(" | ".join(found))

    def _items(self, choice: Choice) -> str:
        items, least, most = items_of(choice, self._leave_out)
        if most == 0:
            return ""
        item = self.value(items, f"{choice.path}.items")
        more = None if most is None else most - 1
        text = f"{item} {repeated(f'({quoted(self._comma)} {item})', max(least - 1, 0), more)}"
        return text if least else f"({text})?"

    def _fields(self, choice: Choice) -> str:
        named, others = self._choices.fields(choice)
        items = []
        for field in arranged(named, self._layout.order):
            element = f"{quoted(self._key(field.name))} {self.value(field.schema, field.path)}"
            items.append(self._item(self._lark.rule(element), field.is_required))
        other = None
        if others is not False:
            value = self.value(others, f"{choice.path}.additionalProperties")
            other = self._item(self._pair(value, named))
        return self._lark.sequence(items, other, is_mixed=self._layout.order != "given")

    def _item(self, element: str, is_required: bool = False) -> Element:
        return Element(element, f"{quoted(self._comma)} {element}", is_required)

    def _pair(self, value: str, named: Sequence[Field] = ()) -> str:
        """Any name but these, and a value."""
        name = self._quoted_regex if self._quotings else CHOSEN[KEY]
        known = [self.spelled(each.name) if self._quotings else each.name for each in named]
        if known:
            name = f"{name} & ~({' | '.join(map(quoted, known))})"
        name = self._lark.terminal(name)
        return self._lark.rule(f"{name} {quoted(self._colon)} {value}")

    def _anything(self) -> str:
        if not self._any:
            lark, comma = self._lark, quoted(self._comma)
            self._any = lark.reserved()
            text = self._text(Choice("string", {}, ""))
            words = [word for word in self._words if word]
            pair = self._pair(self._any)
            number = lark.terminal(NUMBER)
            lark.define(
                self._any,
                f'{text} | {number} | {" | ".join(map(quoted, words))} | "[" "]" | "{{" "}}"'
                f' | "[" {self._any} ({comma} {self._any})* "]"'
                f' | "{{" {pair} ({comma} {pair})* "}}"',
            )
        return self._any

    def _text(self, choice: Choice) -> str:
        values = choice.values
        if not self._quotings:
            begin, end = self._members.quotes
            text = self._lark.up_to(end, self.expression(choice), is_open=values is None)
            return f"{self._lark.literal(begin)} {text}"
        if values is not None:
            return self._lark.terminal(alternatives(quoted(self.spelled(each)) for each in values))
        if not choice.schema.keys() & {"pattern", "format", "minLength", "maxLength"}:
            return self._lark.terminal(self._quoted_regex)
        is_matched = choice.schema.keys() & {"pattern", "format"}  # without escapes, to match it
        found = []
        for each in self._quotings:
            expression = self.expression(choice, each.plain if is_matched else each.unit)
            found.append(f"{quoted(each.quote)} ({expression}) {quoted(each.quote)}")
        return self._lark.terminal(alternatives(found))

    def expression(self, choice: Choice, unit: str = ANY_CHARACTER) -> str:
        """The regular expression of texts. `unit` as for `text_expression`."""
        if choice.values is not None:
            return alternatives(quoted(str(value)) for value in choice.values)
        name = choice.schema.get("format")
        if name is not None and name not in FORMATS:
            self._leave_out(f"{choice.path}.format")
        return text_expression(choice.schema, unit)


NUMERIC = (*BOUNDS, "multipleOf")


def is_delegated(form: CallForm) -> bool:
    """Whether values are JSON that llguidance can describe by itself."""
    layout = form.layout
    if form.members and form.members.literals != "json":
        return False
    # On lines, it can do more than the rules here.
    return layout.is_on_lines or (layout.order == "given" and not layout.is_ascii)


def laid_out(schema: dict[str, Json], layout: Layout) -> str:
    """The rule for JSON in this layout."""
    writing = {**WRITING, "item_separator": layout.comma, "key_separator": layout.colon}
    if layout.is_on_lines:
        lines: dict[str, Json] = {"whitespace_flexible": True, "whitespace_pattern": LINE}
        writing |= {"item_separator": ",", **lines}
    return json_text(schema, writing)


def arranged(fields: Sequence[Field], order: Order) -> list[Field]:
    by_name = {field.name: field for field in fields}
    return [by_name[name] for name in in_order(by_name, order)]


def items_of(choice: Choice, leave_out: LeaveOut) -> tuple[Json, int, int | None]:
    """The schema of a list's items, and how many there may be at least and at most."""
    schema = choice.schema
    items = schema.get("items", True)
    if "prefixItems" in schema:
        leave_out(f"{choice.path}.prefixItems")
        items = True
    least, most = schema.get("minItems"), schema.get("maxItems")
    return items, least if isinstance(least, int) else 0, most if isinstance(most, int) else None


def repeated(element: str, least: int, most: int | None) -> str:
    if most == 0:
        return ""
    return f"{element}{{{least},{'' if most is None else most}}}"


def reachable(schema: Json, definitions: dict[str, Json]) -> dict[str, Json]:
    """Those to which the schema refers, and to which they do."""
    found: dict[str, Json] = {}
    waiting = [schema]
    while waiting:
        for part in inside(waiting.pop()):
            name = str(as_map(part).get("$ref")).removeprefix("#/$defs/")
            if name in definitions and name not in found:
                found[name] = definitions[name]
                waiting.append(found[name])
    return found
