"""Which answers a grammar of calls accepts, in one form of each shape."""

from typing import Any

import msgspec
import pytest
from grammar_forms import IDS_OF_CONTROL, Accepting, accepting
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from valid_calls import ARGUMENTS, is_ambiguous
from written_calls import FORMS, written

from localinfra.chat.answer import Answer, Tool, ToolUse, grammar_of, parser_of
from localinfra.chat.formats.form import NAME, CallForm, ReasoningMarks, Voice
from localinfra.chat.formats.harmony import HARMONY
from localinfra.chat.formats.pieces import CallArguments
from localinfra.chat.messages import Json
from localinfra.errors import UnsupportedParameter

TAGS, PYTHON = FORMS["lines"], FORMS["python"]

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
]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("call", INVALID, ids=range(len(INVALID)))
def test_a_call_that_is_not_valid_is_refused(form: CallForm, call: tuple[str, Any]) -> None:
    assert not accepting(form, WEATHER, EMPTY).takes(written(form, call))


def test_arguments_come_in_the_schemas_order_or_sorted_if_the_template_sorts_them() -> None:
    for form in (TAGS, FORMS["json"]):
        for arguments in ({"days": 3, "city": "x"}, {"unit": "C", **LEAST}):
            assert not accepting(form, WEATHER).takes(written(form, ("f0", arguments)))
    schema: dict[str, Json] = {"properties": {"b": {"const": {"d": 1, "c": 2}}, "C": {}, "a": {}}}
    arguments = {"C": 1, "b": {"d": 1, "c": 2}, "a": 3}
    text = written(FORMS["sorted-json"], ("f0", arguments))
    assert '{"C":1,"a":3,"b":{"c":2,"d":1}}' in text
    assert accepting(FORMS["sorted-json"], schema).takes(text)
    text = written(FORMS["bare"], ("f0", arguments))
    assert "a:3,b:{c:2,d:1},C:1" in text
    assert accepting(FORMS["bare"], schema).takes(text)


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


def test_marked_content_may_precede_calls_and_the_prompt_may_have_begun_its_mark() -> None:
    form = CallForm(trigger=">>>f", before=f">>>{NAME}\n", after="", closing="")
    voice = Voice(form, True, content=">>>all\n", content_end="<|end|>", begun=">>>")
    use = ToolUse([Tool("f0", {}, EMPTY, "t0")])
    source = grammar_of(Answer(use=use), voice, IDS_OF_CONTROL, False)
    assert source
    grammar = Accepting(source, IDS_OF_CONTROL)
    for text in ("all\nHello", "f0\n{}", "all\nHello<|end|>", "all\nHello<|end|>>>>f0\n{}"):
        assert grammar.takes(text), text
    for text in ("Hello", ">>>f0\n{}", "f1\n{}", "all\nHello<|end|>>>>f1\n{}"):
        assert not grammar.takes(text), text


def test_required_calls_may_follow_blanks_before_reasoning_and_an_empty_content() -> None:
    form = CallForm("<call>", f"<call>{NAME} ", "</call>")
    reasoning = ReasoningMarks("<think>", "</think>")
    voice = Voice(form, True, reasoning, content="<say>", content_end="</say>")
    use = ToolUse([Tool("f0", {}, EMPTY, "t0")], is_required=True)
    source = grammar_of(Answer(use=use), voice, {}, False)
    assert source
    grammar = Accepting(source, {})
    for before in ("", "\n<think></think>\n", "<say></say>", "<think>hm</think><say></say>"):
        assert grammar.takes(f"{before}<call>f0 {{}}</call>"), before
    assert not grammar.takes("<say>Well,</say><call>f0 {}</call>")


def test_the_closing_mark_may_be_optional() -> None:
    form = msgspec.structs.replace(FORMS["json-after-an-id"], has_open_end=True)
    text = written(form, ("f0", {}))
    for end in ("", form.closing):
        assert accepting(form, EMPTY).takes(text.removesuffix(form.closing) + end)


def test_harmonys_calls_may_name_the_function_before_the_channel() -> None:
    use = ToolUse([Tool("f0", {}, EMPTY, "t0")], is_required=True)
    source = grammar_of(Answer(use=use), HARMONY, {}, False)
    assert source
    grammar = Accepting(source, {})
    headers = [
        "<|channel|>commentary to=functions.f0 <|constrain|>json",
        " to=functions.f0<|channel|>commentary json",
        " to=functions.f0<|channel|>commentary <|constrain|>json",
    ]
    thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    for header in headers:
        assert grammar.takes(f"{header}<|message|>{{}}")
        assert grammar.takes(f"{thought}{header}<|message|>{{}}")
        assert not grammar.takes(header.replace("f0", "f1") + "<|message|>{}")


def test_a_raw_text_may_contain_its_quote_but_not_before_what_may_follow_it() -> None:
    grammar = accepting(PYTHON, taking({"type": "string"}))
    for text in ("it's", "'", "''x'", "\\", 'say "x"', "a\nb"):
        assert grammar.takes(written(PYTHON, ("f0", {"v": text, "last": 1}))), text
    assert not grammar.takes(written(PYTHON, ("f0", {"v": "f('x')", "last": 1})))


def test_ids_and_numbers_are_the_models_choice() -> None:
    form = FORMS["json-after-an-id"]
    text = written(form, ("f0", {}))
    assert accepting(form, EMPTY).takes(text.replace("f0:0", "f0:12"))
    assert not accepting(form, EMPTY).takes(text.replace("f0:0", "f0:x"))
    form = FORMS["json-with-ids"]
    text = written(form, ("f0", {})).replace("abcdefgh0", "call_0-x")
    assert accepting(form, EMPTY).takes(text)
    short = msgspec.structs.replace(form, has_short_ids=True)
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
    ({"enum": ["<", "a<b", "x"]}, ["<", "a<b", "x"], ["a", "<b", "<<"]),
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
def test_others_than_the_named_arguments_follow_them_or_are_sorted_among_them(
    form: CallForm,
) -> None:
    inner: dict[str, Json] = {
        "type": "object",
        "properties": {"m": {"type": "integer"}, "n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": {"type": "boolean"},
    }
    schema: dict[str, Json] = {**inner, "properties": {"m": inner, "n": {"type": "integer"}}}
    grammar = accepting(form, schema)
    few: dict[str, Json] = {"n": 1, "a": True, "z": False}
    valid: list[dict[str, Json]] = [few, {"n": 1}, {"m": {"m": 1, **few}, **few}]
    invalid: list[dict[str, Json]] = [{"n": 1, "a": 2}, {"a": True}, {"m": {"a": True}, "n": 1}]
    for arguments in valid:
        text = written(form, ("f0", arguments))
        assert grammar.takes(text), (text, grammar.source.text)
    for arguments in invalid:
        assert not grammar.takes(written(form, ("f0", arguments)))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_without_a_schema_any_arguments_will_do(form: CallForm) -> None:
    grammar = accepting(form, {"type": "object"}, {"type": "object", "properties": {"a": {}}})
    values: list[Json] = ["text", 1, [1, {"x": None}], {"k": "v"}, True]
    for value in values:
        is_nested = isinstance(value, list | dict)
        if not (is_nested and form.members and form.members.item):  # whose closing tags are alike
            assert grammar.takes(written(form, ("f0", {"any": value, "other": "x"}))), value
        assert grammar.takes(written(form, ("f1", {"a": value})))
        assert not grammar.takes(written(form, ("f1", {"b": value})))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", ["a b", "é", "$x", "x(y)", '"', "it's", "a,b", "", " x", "</a>"])
def test_a_name_that_can_not_be_read_back_is_left_out_and_named(form: CallForm, name: str) -> None:
    schema: dict[str, Json] = {"type": "object", "properties": {name: {"type": "string"}}}
    arguments: dict[str, Json] = {name: "v"}
    parser = parser_of(
        Voice(form, takes_tools=True), tools=[Tool("f0", {}, schema, "t0")], is_thinking=False
    )
    assert parser
    pieces = [*parser.push(written(form, ("f0", arguments))), *parser.finish()]
    text = "".join(piece.text for piece in pieces if isinstance(piece, CallArguments))
    is_read = text.endswith("}") and msgspec.json.decode(text) == arguments
    left_out = [] if is_read else [f"t0.properties.{name}"]
    assert accepting(form, schema).source.left_out == left_out


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
    assert accepting(FORMS["bare"], taking(both)).source.left_out == ["t0.properties.v.allOf"]
    assert not accepting(
        TAGS, taking({"allOf": [{"type": "integer"}, {"minimum": 1}]})
    ).source.left_out


@settings(max_examples=60, deadline=None)
@given(ARGUMENTS, st.sampled_from(sorted(FORMS)))
def test_what_is_valid_is_accepted_and_what_misses_something_is_not(
    pair: tuple[dict[str, Any], Any], name: str
) -> None:
    (schema, value), form = pair, FORMS[name]
    assume(not is_ambiguous(form, value))
    grammar = accepting(form, schema)
    text = written(form, ("f0", value))
    assert grammar.takes(text), (text, grammar.source.text)
    for missing in schema["required"]:
        less = {key: each for key, each in value.items() if key != missing}
        assert not grammar.takes(written(form, ("f0", less)))
