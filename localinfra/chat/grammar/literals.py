"""Values in the spelling of one form: JSON, Python, or the bare one of Gemma."""

import json
import re

from localinfra.chat.formats.form import KEY, Members
from localinfra.chat.grammar.lark import Element, LarkWriter, alternatives, quoted
from localinfra.chat.grammar.texts import ANY_CHARACTER, FORMATS, text_expression
from localinfra.chat.messages import Json
from localinfra.chat.schema.choices import Choice, LeaveOut, SchemaChoices
from localinfra.chat.schema.keywords import BOUNDS, as_map, inside
from localinfra.chat.schema.rules import json_text

# Of as many digits as a parser can take for a number.
INTEGER = "/-?(0|[1-9][0-9]{0,17})/"
NUMBER = r"/-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?/"
PYTHON_TEXT = r"""/'([^'\\]|\\(?s:.))*'|"([^"\\]|\\(?s:.))*"/"""
MAX_GRAMMAR_CHARS = 512 * 1024  # beyond, schemas with references are left out


class Literals:
    """Writes the rules of values."""

    def __init__(
        self,
        members: Members,
        lark: LarkWriter,
        root: dict[str, Json],
        choices: SchemaChoices,
        leave_out: LeaveOut,
    ):
        self._members = members
        self._lark = lark
        self._root = root
        self._choices = choices
        self._leave_out = leave_out
        self._is_json = members.literals == "json"
        self._is_python = members.literals == "python"
        self._comma, self._colon = (", ", ": ") if self._is_python else (",", ":")
        has_quotes = members.quotes[0] and members.quotes_always
        self._quotes = members.quotes if has_quotes else ("'", "'")
        # Rules by the id of their schema, which is kept lest another one gets its id.
        self._rules: dict[tuple[int, str], tuple[str, Json]] = {}
        self._any = ""

    def elements(self, choice: Choice) -> str:
        """Elements that match the values, with no mark after them."""
        if (expression := self.scalar(choice)) is not None:
            return self._lark.rule(expression)
        if choice.kind in ("integer", "number"):
            kept = {key: choice.schema[key] for key in NUMERIC if key in choice.schema}
            return self.json({**kept, "type": choice.kind}, choice.path)
        is_text = choice.kind == "string"
        if self._is_json and not (is_text and self._members.quotes[0] not in ("", '"')):
            known = {} if choice.kind == "any" or choice.values else {"type": choice.kind}
            return self.json({**choice.schema, **known}, choice.path)
        if choice.values is not None and not is_text:
            return self._lark.rule(
                " | ".join(self._lark.literal(self.spelled(value)) for value in choice.values)
            )
        if choice.kind == "any":
            return self._anything()
        key = (id(choice.schema), choice.kind)
        if key not in self._rules:
            self._rules[key] = self._lark.reserved(), choice.schema
            self._lark.define(self._rules[key][0], self._composed(choice))
        return self._rules[key][0]

    def scalar(self, choice: Choice) -> str | None:
        """The regular expression of a number or a word, None if it is none or has limits."""
        words = self._members.words
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
        if not any(isinstance(part, dict) and "$ref" in part for part in inside(schema)):
            return self._lark.rule(json_text(schema))
        if self._lark.num_chars > MAX_GRAMMAR_CHARS:
            self._leave_out(path)
            return self._lark.rule(json_text({"type": schema["type"]} if "type" in schema else {}))
        definitions = reachable(schema, as_map(self._root.get("$defs")))
        return self._lark.rule(json_text({**schema, "$defs": definitions}))

    def spelled(self, value: Json) -> str:
        """A value in Python's or the bare spelling."""
        if value is None or isinstance(value, bool):
            return self._members.words[2 if value is None else int(not value)]
        if isinstance(value, str):
            begin, end = self._quotes
            return begin + (escaped(value, end) if self._is_python else value) + end
        if isinstance(value, list):
            return f"[{self._comma.join(map(self.spelled, value))}]"
        if isinstance(value, dict):
            items = [self._key(name) + self.spelled(each) for name, each in value.items()]
            return "{" + self._comma.join(items) + "}"
        return json.dumps(value)

    def _key(self, name: str) -> str:
        return (self.spelled(name) if self._is_python else name) + self._colon

    def _composed(self, choice: Choice) -> str:
        if choice.kind == "array":
            return f'"[" {self._items(choice)} "]"'
        if choice.kind == "object":
            return f'"{{" {self._lark.rule(self._fields(choice))} "}}"'
        return self._text(choice)

    def _value(self, schema: Json, path: str) -> str:
        found = [self.elements(choice) for choice in self._choices.of(schema, path)]
        return found[0] if len(found) == 1 else self._lark.rule(" | ".join(found))

    def _items(self, choice: Choice) -> str:
        items, least, most = items_of(choice, self._leave_out)
        if most == 0:
            return ""
        item = self._value(items, f"{choice.path}.items")
        more = None if most is None else most - 1
        text = f"{item} {repeated(f'({quoted(self._comma)} {item})', max(least - 1, 0), more)}"
        return text if least else f"({text})?"

    def _fields(self, choice: Choice) -> str:
        named, others = self._choices.fields(choice)
        items = []
        for field in named:
            element = f"{quoted(self._key(field.name))} {self._value(field.schema, field.path)}"
            items.append(self._item(self._lark.rule(element), field.is_required))
        other = None
        if others is not False:
            value = self._value(others, f"{choice.path}.additionalProperties")
            other = self._item(self._pair(value))
        return self._lark.sequence(items, other)

    def _item(self, element: str, is_required: bool = False) -> Element:
        return Element(element, f"{quoted(self._comma)} {element}", is_required)

    def _pair(self, value: str) -> str:
        """Any name and a value."""
        name = self._lark.terminal(PYTHON_TEXT) if self._is_python else self._lark.literal(KEY)
        return self._lark.rule(f"{name} {quoted(self._colon)} {value}")

    def _anything(self) -> str:
        if not self._any:
            lark, comma = self._lark, quoted(self._comma)
            self._any = lark.reserved()
            text = self._text(Choice("string", {}, ""))
            words = [word for word in self._members.words if word]
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
        begin, end = self._quotes
        values = choice.values
        if not self._is_python:
            expression = self.expression(choice)
            text = self._lark.up_to(end, expression, is_open=values is None)
            return f"{self._lark.literal(begin)} {text}"
        if values is not None:
            return self._lark.terminal(alternatives(quoted(self.spelled(each)) for each in values))
        if not choice.schema.keys() & {"pattern", "format", "minLength", "maxLength"}:
            return self._lark.terminal(PYTHON_TEXT)
        plain = rf"[^{re.escape(end)}\\]"
        is_matched = choice.schema.keys() & {"pattern", "format"}  # without escapes, to match it
        unit = plain if is_matched else rf"(?:{plain}|\\['\"\\nrt])"
        expression = self.expression(choice, unit)
        return self._lark.terminal(f"{quoted(begin)} ({expression}) {quoted(end)}")

    def expression(self, choice: Choice, unit: str = ANY_CHARACTER) -> str:
        """The regular expression of texts. `unit` as for `text_expression`."""
        if choice.values is not None:
            return alternatives(quoted(str(value)) for value in choice.values)
        name = choice.schema.get("format")
        if name is not None and name not in FORMATS:
            self._leave_out(f"{choice.path}.format")
        return text_expression(choice.schema, unit)


NUMERIC = (*BOUNDS, "multipleOf")


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


def escaped(text: str, quote: str) -> str:
    return text.replace("\\", "\\\\").replace(quote, f"\\{quote}")
