"""Which answers a grammar of calls accepts, in one form of each shape."""

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from localinfra.chat.answer import Answer, GrammarSource, Tool, ToolUse, grammar_of
from localinfra.chat.formats.families import GENERIC
from localinfra.chat.formats.form import (
    ID,
    INDEX,
    KEY,
    NAME,
    TYPE,
    CallForm,
    Members,
    ReasoningMarks,
    Voice,
)
from localinfra.chat.messages import Json
from localinfra.engine.grammar.probe import LIMITS
from localinfra.engine.grammar.prober import Prober
from localinfra.errors import UnsupportedParameter

PYTHON_WORDS = ("True", "False", "None")
TAGS = CallForm(  # texts as they are, between tags on lines of their own
    trigger="<tool_call>",
    before=f"<tool_call>\n<function={NAME}>\n",
    after="</function>\n</tool_call>",
    separator="\n",
    members=Members(f"<parameter={KEY}>\n", "\n</parameter>\n", words=PYTHON_WORDS),
)
PAIRS = CallForm(  # marks that are control tokens
    trigger="<tool_call>",
    before=f"\n<tool_call>{NAME}\n",
    after="</tool_call>",
    members=Members(f"<arg_key>{KEY}</arg_key>\n<arg_value>", "</arg_value>\n"),
)
TYPED = CallForm(
    trigger="<|tools|>",
    opening="<|tools|>",
    before=f'<|call|>tool="{NAME}" index="{INDEX}"<|sep|>',
    after="<|end|>call<|sep|>",
    closing="<|end|>tools<|sep|>",
    members=Members(
        f'<|call|>argument key="{KEY}" type="{TYPE}"<|sep|>',
        "<|end|>argument<|sep|>",
        types={kind: kind for kind in ("string", "number", "boolean", "null", "object", "array")},
    ),
)
FLAGGED = CallForm(  # told only whether it is text
    trigger="<calls>",
    opening="<calls>\n",
    before=f'<invoke name="{NAME}">\n',
    after="</invoke>\n",
    closing="</calls>",
    members=Members(
        f'<parameter name="{KEY}" string="{TYPE}">',
        "</parameter>\n",
        types={
            "string": "true",
            **dict.fromkeys(("number", "boolean", "null", "object", "array"), "false"),
        },
    ),
)
REPR = CallForm(  # texts as they are, lists and objects in Python
    trigger="<seed:tool_call>",
    before=f"<seed:tool_call>\n<function={NAME}>\n",
    after="</function>\n</seed:tool_call>",
    separator="\n",
    members=Members(f"<parameter={KEY}>", "</parameter>\n", words=PYTHON_WORDS, literals="python"),
)
PYTHON = CallForm(
    trigger="<|calls|>",
    opening="<|calls|>[",
    before=f"{NAME}(",
    after=")",
    separator=", ",
    closing="]<|end|>",
    members=Members(f"{KEY}=", "", ", ", ("'", "'"), words=PYTHON_WORDS, literals="python"),
)
BARE = CallForm(
    trigger="<|call|>",
    before=f"<|call|>call:{NAME}{{",
    after="}<|end|>",
    members=Members(
        f"{KEY}:", "", ",", ('<|"|>',) * 2, words=("true", "false", "None"), literals="bare"
    ),
)
QUOTED = CallForm(  # texts in quotes where they would be taken for something else
    trigger="<function",
    before=f'<function name="{NAME}">',
    after="</function>",
    separator="\n",
    members=Members(
        f'<param name="{KEY}">',
        "</param>",
        quotes=("<![CDATA[", "]]>"),
        quotes_always=False,
        words=PYTHON_WORDS,
        literals="python",
    ),
)
NESTED = CallForm(
    trigger="]<]x[>[<tool_call>",
    opening="]<]x[>[<tool_call>\n",
    before=f']<]x[>[<invoke name="{NAME}">',
    after="]<]x[>[</invoke>\n",
    closing="]<]x[>[</tool_call>",
    members=Members(f"]<]x[>[<{KEY}>", f"]<]x[>[</{KEY}>", words=("true", "false", ""), item="i"),
)
IDS = CallForm(
    trigger="<|tools|>",
    opening="<|tools|>",
    before=f"<|call|>{ID}<|sep|>functions.{NAME}:{INDEX}<|sep|>",
    after="<|end|>",
)
TWICE = CallForm(  # the name stands twice, also in what separates calls
    trigger=" to=",
    before=f' to={NAME}<|sep|><calls>\n<invoke name="{NAME}">\n',
    after="</invoke>\n</calls>",
    separator="<|end|>assistant",
    members=Members(f'<parameter name="{KEY}">', "</parameter>\n"),
)
ONE_BY_ONE = {
    "tags": TAGS,
    "pairs": PAIRS,
    "typed": TYPED,
    "flagged": FLAGGED,
    "repr": REPR,
    "python": PYTHON,
    "bare": BARE,
    "quoted": QUOTED,
    "nested": NESTED,
    "twice": TWICE,
}
FORMS = {"json": GENERIC, "ids": IDS, **ONE_BY_ONE}

CONTROL = [
    "<|tools|>",
    "<|call|>",
    "<|calls|>",
    "<|sep|>",
    "<|end|>",
    '<|"|>',
    "<think>",
    "</think>",
    "<eos>",
]
CONTROL += ["<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"]
PIECES = [
    "</",
    "parameter",
    ">\n",
    "\n</",
    "5\n",
    "5<",
    '", "',
    "}}",
    "e<",
    "',",
    ")]",
    "\n<",
    "[{",
]
SPELLINGS = [*(bytes([byte]) for byte in range(256)), *map(str.encode, PIECES + CONTROL)]
IDS_OF_CONTROL = {text: 256 + len(PIECES) + at for at, text in enumerate(CONTROL)}


class Tokens:
    """As llguidance asks for a tokenizer: bytes, pieces of several, and control tokens."""

    eos_token_id = bos_token_id = IDS_OF_CONTROL["<eos>"]
    tokens = SPELLINGS
    special_token_ids = tuple(IDS_OF_CONTROL.values())

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@functools.cache
def tokenizer() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(Tokens()), n_vocab=len(SPELLINGS))


def tokens_of(text: str, tokens: Mapping[str, int], *, in_bytes: bool) -> list[int]:
    """`tokens`: control tokens. `in_bytes`: not in the longest pieces."""
    pieces = {} if in_bytes else {piece: 256 + at for at, piece in enumerate(PIECES)}
    found = split_at(tokens, text)
    parts = [
        part for each in found for part in ([each] if each in tokens else split_at(pieces, each))
    ]
    ids = {**pieces, **tokens}
    return [id for part in parts for id in ([ids[part]] if part in ids else list(part.encode()))]


def split_at(marks: Iterable[str], text: str) -> list[str]:
    longest_first = sorted(marks, key=len, reverse=True)
    return re.split(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})", text)


class Accepting:
    """A grammar, compiled. `form` has control tokens unless it is about texts in tags."""

    def __init__(self, source: GrammarSource, tokens: Mapping[str, int]):
        self.source, self.tokens = source, tokens
        limits = LLParserLimits(**LIMITS)
        self.matcher = LLMatcher(tokenizer(), source.text, log_level=0, limits=limits)
        assert not self.matcher.is_error(), f"{self.matcher.get_error()}\n{source.text}"

    def takes(self, text: str) -> bool:
        """Whether the whole text is an answer, however it is cut into tokens."""
        results = {self._takes(text, in_bytes) for in_bytes in (True, False)}
        assert len(results) == 1, text
        return results.pop()

    def _takes(self, text: str, in_bytes: bool) -> bool:
        walker = self.matcher.deep_copy()
        for token in tokens_of(text, self.tokens, in_bytes=in_bytes):
            if walker.is_stopped() or walker.validate_tokens([token]) != 1:
                return False
            walker.consume_token(token)
        assert not walker.is_error(), walker.get_error()
        return bool(walker.is_accepting())


def accepting(
    form: CallForm,
    *schemas: dict[str, Json],
    is_required: bool = True,
    is_parallel: bool = True,
    is_strict: bool = False,
    reasoning: ReasoningMarks | None = None,
) -> Accepting:
    """Of the functions f0, f1 … with these parameters."""
    tools = [
        Tool(f"f{at}", {}, schema, f"t{at}", is_strict=is_strict)
        for at, schema in enumerate(schemas)
    ]
    use = ToolUse(tools, is_required=is_required, is_parallel=is_parallel)
    tokens = {} if form in (GENERIC, TAGS, NESTED) else IDS_OF_CONTROL
    source = grammar_of(Answer(use=use), Voice(form, True, reasoning), tokens, False)
    assert source
    return Accepting(source, tokens)


def kind_of(value: Json) -> str:
    kinds: dict[type, str] = {str: "string", bool: "boolean", dict: "object", list: "array"}
    return "null" if value is None else kinds.get(type(value), "number")


def written(form: CallForm, *calls: tuple[str, dict[str, Json]]) -> str:
    """The calls as a template writes them."""
    texts = []
    for at, (name, arguments) in enumerate(calls):
        members = form.members
        inside = json.dumps(arguments, ensure_ascii=False)
        if members:
            inside = members.separator.join(tagged(members, *each) for each in arguments.items())
        before = form.before.replace(INDEX, str(at)).replace(ID, f"call_{at}-x")
        texts.append((before + inside + form.after).replace(NAME, name))
    return form.opening + form.separator.join(texts) + form.closing


def tagged(members: Members, name: str, value: Json) -> str:
    is_bare = isinstance(value, str) and not (members.quotes[0] and members.quotes_always)
    text = str(value) if is_bare else literal(members, value)
    if is_bare and members.quotes[0] and "<" in text:
        text = text.join(members.quotes)
    text = members.before + text + members.after
    return text.replace(KEY, name).replace(TYPE, members.types.get(kind_of(value), ""))


def literal(members: Members, value: Json) -> str:
    if value is None or isinstance(value, bool):
        return members.words[2 if value is None else int(not value)]
    if members.item and isinstance(value, list):
        return "".join(tagged(members, members.item, each) for each in value)
    if members.item and isinstance(value, dict):
        return "".join(tagged(members, *each) for each in value.items())
    if members.literals == "json":
        return json.dumps(value, ensure_ascii=False)
    is_python = members.literals == "python"
    begin, end = members.quotes if members.quotes_always and members.quotes[0] else ("'", "'")
    comma, colon = (", ", ": ") if is_python else (",", ":")
    if isinstance(value, str):
        inside = value.replace("\\", "\\\\").replace("'", "\\'") if is_python else value
        return begin + inside + end
    if isinstance(value, list):
        return f"[{comma.join(literal(members, each) for each in value)}]"
    if isinstance(value, dict):
        names = [literal(members, name) if is_python else name for name in value]
        values = [literal(members, each) for each in value.values()]
        pairs = zip(names, values, strict=True)
        return "{" + comma.join(f"{name}{colon}{each}" for name, each in pairs) + "}"
    return json.dumps(value)


WEATHER: dict[str, Json] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["C", "F"]},
        "exact": {"type": "boolean"},
        "place": {
            "type": "object",
            "properties": {
                "lat": {"type": "number"},
                "tags": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["lat"],
        },
    },
    "required": ["city", "days"],
}
EMPTY: dict[str, Json] = {"type": "object", "properties": {}}
FULL: dict[str, Json] = {
    "city": "A <b> \"q\" 'x' \\ \n é 😀",
    "days": 5,
    "unit": "C",
    "exact": True,
    "place": {"lat": -1.5, "tags": ["x", "it's"]},
}
LEAST: dict[str, Json] = {"city": "", "days": 14}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_calls_are_accepted_as_the_template_writes_them(form: CallForm) -> None:
    grammar = accepting(form, WEATHER, EMPTY)
    several: list[list[tuple[str, dict[str, Json]]]] = [
        [("f0", FULL)],
        [("f0", LEAST)],
        [("f1", {})],
        [("f0", {**LEAST, "exact": False})],
        [("f0", FULL), ("f1", {}), ("f0", LEAST)],
    ]
    for calls in several:
        assert grammar.takes(written(form, *calls)), (calls, grammar.source.text)
    assert not grammar.source.left_out


INVALID: list[tuple[str, dict[str, Any]]] = [
    ("f2", {}),
    ("f", LEAST),
    ("f1", LEAST),
    ("f0", {"city": "x"}),
    ("f0", {"days": 3}),
    ("f0", {"days": 3, "city": "x"}),
    ("f0", {**LEAST, "days": 15}),
    ("f0", {**LEAST, "days": "soon"}),
    ("f0", {**LEAST, "days": [1]}),
    ("f0", {**LEAST, "unit": "K"}),
    ("f0", {**LEAST, "exact": "perhaps"}),
    ("f0", {**LEAST, "place": {}}),
    ("f0", {**LEAST, "place": {"lat": "north"}}),
    ("f0", {**LEAST, "place": {"lat": 1, "tags": "x"}}),
    ("f0", {**LEAST, "place": "here"}),
    ("f0", {**LEAST, "other": 1}),
    ("f0", {"unit": "C", **LEAST}),
]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("call", INVALID, ids=range(len(INVALID)))
def test_a_call_that_is_not_valid_is_refused(form: CallForm, call: tuple[str, Any]) -> None:
    assert not accepting(form, WEATHER, EMPTY).takes(written(form, call))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_without_parallel_calls_there_is_one(form: CallForm) -> None:
    grammar = accepting(form, EMPTY, is_parallel=False)
    assert grammar.takes(written(form, ("f0", {})))
    assert not grammar.takes(written(form, ("f0", {}), ("f0", {})))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_under_auto_text_may_come_first_and_a_call_begun_is_ended(form: CallForm) -> None:
    reasoning = ReasoningMarks("<think>", "</think>")
    grammar = accepting(form, WEATHER, EMPTY, is_required=False, reasoning=reasoning)
    call = written(form, ("f0", LEAST))
    for text in ("", "Hello", "5 < 6\n", "Let me see.", "<think>hm</think>\n\n"):
        assert grammar.takes(text) and grammar.takes(text + call), text
        assert not grammar.takes(text + call.replace("f0", "f9"))
        assert not grammar.takes(text + call[: -len(form.closing + form.after)])


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_required_calls_may_follow_reasoning_but_no_text(form: CallForm) -> None:
    grammar = accepting(form, EMPTY, reasoning=ReasoningMarks("<think>", "</think>"))
    call = written(form, ("f0", {}))
    assert grammar.takes(call) and grammar.takes(f"<think>hm</think>\n\n{call}")
    assert not grammar.takes(f"Well, {call}")


def test_ids_and_numbers_are_the_models_choice() -> None:
    text = written(IDS, ("f0", {}))
    assert accepting(IDS, EMPTY).takes(text.replace("f0:0", "f0:12"))
    assert not accepting(IDS, EMPTY).takes(text.replace("f0:0", "f0:x"))
    short = msgspec.structs.replace(IDS, has_short_ids=True)
    assert not accepting(short, EMPTY).takes(text)
    assert accepting(short, EMPTY).takes(text.replace("call_0-x", "abcDEF123"))


def test_a_text_ends_at_its_mark() -> None:
    only: Json = {"a": {"type": "string"}}
    grammar = accepting(TAGS, {"type": "object", "properties": only, "required": ["a"]})
    text = written(TAGS, ("f0", {"a": "in </parameter> and\n"}))
    assert grammar.takes(text)
    assert grammar.takes(text.replace("\n\n", "")), "blanks before the mark are left out"
    assert not grammar.takes(written(TAGS, ("f0", {"a": "x\n</parameter>\ny"})))
    assert not grammar.takes(written(TAGS, ("f0", {"a": "x"}))[:-20])


# One argument: its schema, values that are valid and values that are not.
VALUES: list[tuple[dict[str, Json], list[Json], list[Json]]] = [
    ({"const": "yes"}, ["yes"], ["no", ""]),
    ({"enum": ["a b", "", "é"]}, ["a b", "", "é"], ["a", "é é"]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "a\né"], ["a", "abcd"]),
    ({"type": "string", "pattern": "^[a-z]+[0-9]$"}, ["ab1"], ["ab", "1", "xab12"]),
    ({"type": "string", "pattern": "b{2}"}, ["abba", "bb"], ["ab", ""]),
    ({"type": "string", "pattern": r"^\d+$|^x"}, ["12", "xyz"], ["1y", "yx"]),
    ({"type": "string", "format": "date"}, ["2026-11-28"], ["today", "2026-13-28"]),
    ({"type": "string", "format": "uuid"}, ["0" * 8 + "-0000" * 3 + "-" + "a" * 12], ["0"]),
    ({"type": "number", "maximum": 2}, [-1.5, 2, 0], [3, 2.5]),
    ({"type": "integer"}, [0, -12], [1.5]),
    ({"type": "integer", "multipleOf": 5}, [10, 0], [12]),
    ({"enum": [1, 2.5]}, [1, 2.5], [2, 12]),
    ({"type": "boolean"}, [True, False], [1]),
    (
        {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
        [[1]],
        [[], [1] * 3],
    ),
    ({"type": "array", "items": {"enum": ["a", "b"]}}, [[], ["a", "b", "a"]], [["c"]]),
    ({"type": "array", "items": {"type": "integer"}, "maxItems": 1}, [[], [1]], [[1, 2]]),
    ({"type": "array", "maxItems": 0}, [[]], [[1]]),
    (
        {"type": "array", "items": {"type": "array", "items": {"type": "null"}}},
        [[[None], []]],
        [[[1]]],
    ),
    (
        {"type": "object", "additionalProperties": {"type": "integer"}},
        [{}, {"x": 1, "y": 2}],
        [{"x": "z"}],
    ),
    (
        {"type": "object", "properties": {"x": {"type": "integer"}, "y": {}}, "required": ["y"]},
        [{"x": 1, "y": 1}, {"y": "text"}],
        [{"x": 1}, {"y": 1, "z": 1}],
    ),
    (
        {"$ref": "#/$defs/tree"},
        [{"n": 1, "in": [{"n": 2}, {"n": 3, "in": []}]}],
        [{"n": 1, "in": [{}]}],
    ),
    ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, [7, None], [True, [7]]),
    (
        {"anyOf": [{"enum": ["a"]}, {"type": "array", "items": {"type": "integer"}}]},
        ["a", [1]],
        ["b", ["a"]],
    ),
]
DEFS: dict[str, Json] = {
    "tree": {
        "type": "object",
        "properties": {
            "n": {"type": "integer"},
            "in": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
        },
        "required": ["n"],
    }
}


def taking(schema: dict[str, Json]) -> dict[str, Json]:
    """Parameters: `v` by the schema, and a number after it."""
    properties: dict[str, Json] = {"v": schema, "last": {"type": "integer"}}
    return {"type": "object", "properties": properties, "required": ["v", "last"], "$defs": DEFS}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("schema", "valid", "invalid"), VALUES, ids=range(len(VALUES)))
def test_each_value_is_held_to_its_schema(
    form: CallForm, schema: dict[str, Json], valid: list[Json], invalid: list[Json]
) -> None:
    grammar = accepting(form, taking(schema))
    for value in valid:
        text = written(form, ("f0", {"v": value, "last": 1}))
        assert grammar.takes(text), (value, text, grammar.source.text)
    for value in invalid:
        text = written(form, ("f0", {"v": value, "last": 1}))
        assert not grammar.takes(text), (value, text, grammar.source.text)
    assert not grammar.source.left_out


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_without_a_schema_any_arguments_will_do(form: CallForm) -> None:
    grammar = accepting(form, {"type": "object"}, {"type": "object", "properties": {"a": {}}})
    values: list[Json] = ["text", 1, [1, {"x": None}], {"k": "v"}, True]
    for value in values:
        if form is not NESTED or not isinstance(value, list | dict):  # whose closing tags are alike
            assert grammar.takes(written(form, ("f0", {"any": value, "other": "x"}))), value
        assert grammar.takes(written(form, ("f1", {"a": value})))
        assert not grammar.takes(written(form, ("f1", {"b": value})))


def test_what_text_can_not_be_told_from_is_left_out_and_named() -> None:
    mixed: dict[str, Json] = {
        "type": ["string", "array"],
        "maxLength": 3,
        "items": {"type": "null"},
    }
    grammar = accepting(TAGS, taking(mixed))
    assert grammar.source.left_out == ["t0.properties.v"]
    assert grammar.takes(written(TAGS, ("f0", {"v": "long text", "last": 1})))
    assert not accepting(PYTHON, taking(mixed)).source.left_out
    with pytest.raises(UnsupportedParameter):
        accepting(TAGS, taking(mixed), is_strict=True)
    both: dict[str, Json] = {"type": "string", "allOf": [{"minLength": 1}, {"maxLength": 2}]}
    assert accepting(BARE, taking(both)).source.left_out == ["t0.properties.v.allOf"]
    assert not accepting(
        TAGS, taking({"allOf": [{"type": "integer"}, {"minimum": 1}]})
    ).source.left_out


names = st.sampled_from(["a", "b", "c", "d"])
texts = st.text(st.sampled_from("ab1 '\"\\\n<>{}[],:é"), max_size=6).filter(
    lambda text: not any(mark in text for mark in ("\n</parameter>", "</parameter>"))
)
Pair = tuple[dict[str, Json], Json]  # a schema, and a value that is valid by it
scalars: st.SearchStrategy[Pair] = st.one_of(
    texts.map(lambda text: ({"type": "string"}, text)),
    texts.map(lambda text: ({"type": ["string", "null"]}, text)),
    texts.map(lambda text: ({"enum": [text, "x"]}, text)),
    texts.map(lambda text: ({"type": "string", "maxLength": len(text)}, text)),
    st.integers(-99, 99).map(lambda n: ({"type": "integer", "minimum": n}, n)),
    st.integers(-99, 99).map(lambda n: ({"type": "number"}, n / 4)),
    st.booleans().map(lambda flag: ({"type": "boolean"}, flag)),
    st.booleans().map(lambda flag: ({"type": ["boolean", "null"]}, None if flag else flag)),
)


def objects(values: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    """Some of the properties are optional, and may be absent."""

    def made(parts: dict[str, tuple[Pair, bool, bool]]) -> Pair:
        properties: dict[str, Json] = {name: pair[0] for name, (pair, _, _) in parts.items()}
        required: list[Json] = [name for name, (_, is_required, _) in parts.items() if is_required]
        value = {
            name: pair[1]
            for name, (pair, is_required, is_there) in parts.items()
            if is_required or is_there
        }
        return {"type": "object", "properties": properties, "required": required}, value

    return st.dictionaries(names, st.tuples(values, st.booleans(), st.booleans()), max_size=4).map(
        made
    )


def lists(values: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    pairs = st.tuples(values, st.integers(0, 3))
    return pairs.map(lambda pair: ({"type": "array", "items": pair[0][0]}, [pair[0][1]] * pair[1]))


values = st.recursive(scalars, lambda inner: lists(inner) | objects(inner), max_leaves=6)


@settings(max_examples=60, deadline=None)
@given(objects(values), st.sampled_from(sorted(FORMS)))
def test_what_is_valid_is_accepted_and_what_misses_something_is_not(
    pair: tuple[dict[str, Any], Any], name: str
) -> None:
    (schema, value), form = pair, FORMS[name]
    grammar = accepting(form, schema)
    text = written(form, ("f0", value))
    assert grammar.takes(text), (text, grammar.source.text)
    for missing in schema["required"]:
        less = {key: each for key, each in value.items() if key != missing}
        assert not grammar.takes(written(form, ("f0", less)))


CHAIN = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)}
LARGE: list[dict[str, Any]] = [
    {"properties": {f"p{n}": {"type": "string"} for n in range(2000)}},
    {"properties": {"v": {"enum": [f"choice {n}" for n in range(20_000)]}}},
    {"properties": {"v": {"anyOf": [{"const": n} for n in range(2000)]}}},
    {"properties": {"v": {"type": "string", "maxLength": 10**9}}},
    {"properties": {"v": {"type": "array", "items": {}, "minItems": 10**6}}},
    {"properties": {f"p{n}": {"$ref": "#/$defs/d0"} for n in range(500)}, "$defs": CHAIN},
    {"properties": {"v": {"$ref": "#"}}, "required": ["v"]},
    {"properties": {"v": {"type": "string", "pattern": "(a*)*b" * 50}}},
]


@pytest.fixture(scope="module")
def prober() -> Iterator[Prober]:
    prober = Prober()
    yield prober
    prober.close()


@pytest.mark.parametrize("form", ONE_BY_ONE.values(), ids=ONE_BY_ONE)
@pytest.mark.parametrize("schema", LARGE, ids=range(len(LARGE)))
def test_large_schemas_compile_in_their_time(
    prober: Prober, form: CallForm, schema: dict[str, Any]
) -> None:
    tool = Tool("f", {}, {"type": "object", **schema}, "t")
    source = grammar_of(Answer(use=ToolUse([tool])), Voice(form, True), {}, False)
    assert source
    prober.check(source.text, "t")
