"""Calls in every shape of arguments written one by one, however the text is split or cut."""

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written_calls import FORMS, Call, schema_of, written

from localinfra.chat.answer import Tool, parser_of
from localinfra.chat.formats.form import CallForm, ReasoningMarks, Voice
from localinfra.chat.formats.pieces import (
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Piece,
    Thought,
    joined,
)
from localinfra.chat.partial import completed_object

TRICKY: Call = (
    "note",
    {
        "text": "a <b>\"q\" 'x' \\ \n é 😀, </parameter> }, ] <",
        "lines": "\n\nfirst\n\n",
        "n": -1500.0,
        "i": 7,
        "yes": True,
        "no": False,
        "nil": None,
        "obj": {"k": [1, 2, 3], "its": 'two\n"\\', "z": {"y": None, "t": True}, "e": {}},
        "list": ["x", "it's, so: {"],
        "none": [],
        "empty": "",
        "num": "12",
        "word": "null",
    },
)
CALLS: dict[str, list[Call]] = {
    "tricky": [TRICKY],
    "two": [("stop", {}), ("lookup", {"city": "Paris", "days": 3})],
    "marks": [
        (
            "note",
            {"text": "</arg_value> </invoke> <|close|>argument<|sep|> </tool_call> ]]> ') x"},
        )
    ],
}


def parser(form: CallForm | Voice, calls: list[Call], schemas: dict[str, Any] | None = None) -> Any:
    tools = [
        Tool(name, {}, (schemas or {}).get(name, schema_of(arguments)), "")
        for name, arguments in calls
    ]
    voice = form if isinstance(form, Voice) else Voice(form, takes_tools=True)
    return parser_of(voice, tools=tools, is_thinking=False)


def read(reader: Any, parts: list[str], *, is_cut: bool = False) -> list[Piece]:
    pieces = [piece for part in parts for piece in reader.push(part)]
    return joined([*pieces, *reader.finish(is_cut=is_cut)])


def calls_in(pieces: list[Piece]) -> list[Call]:
    """All calls, which are complete and without other text."""
    assert not any(isinstance(piece, Content) for piece in pieces), pieces
    names = [piece.name for piece in pieces if isinstance(piece, CallStart)]
    texts = [piece.text for piece in pieces if isinstance(piece, CallArguments)]
    assert sum(isinstance(piece, CallEnd) for piece in pieces) == len(names)
    return [(name, json.loads(text)) for name, text in zip(names, texts, strict=True)]


def equal(one: Any, other: Any) -> bool:
    """With types: 1 is not true, and not "1"."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def one_argument(form: CallForm, text: str, schema: Any = None) -> Any:
    """The value of an argument `a` of `f` that is written like this."""
    schemas = {"f": {"type": "object", "properties": {"a": {} if schema is None else schema}}}
    mark = "VALUE"
    whole = written(form, ("f", {"a": mark}))
    quotes = form.members.quotes if form.members else ("", "")
    whole = whole.replace(quotes[0] + mark + quotes[1], text)
    ((_, arguments),) = calls_in(read(parser(form, [("f", {})], schemas), [whole]))
    return arguments["a"]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("shape", FORMS)
def test_a_written_call_is_read_back_however_it_is_split(shape: str, name: str) -> None:
    form, calls = FORMS[shape], CALLS[name]
    text = f"Let me see.\n{written(form, *calls)}\n"
    pieces = read(parser(form, calls), [text])
    assert isinstance(pieces[0], Content) and pieces[0].text.strip() == "Let me see."
    assert equal(calls_in(pieces[1:]), calls)
    assert read(parser(form, calls), list(text)) == pieces
    for at in range(1, len(text)):
        assert read(parser(form, calls), [text[:at], text[at:]]) == pieces, text[:at]


@pytest.mark.parametrize("shape", FORMS)
def test_a_cut_call_has_the_beginning_of_its_arguments_and_no_end(shape: str) -> None:
    form = FORMS[shape]
    text = written(form, TRICKY)
    (whole,) = [
        p.text for p in read(parser(form, [TRICKY]), [text]) if isinstance(p, CallArguments)
    ]
    for end in range(len(text)):
        pieces = read(parser(form, [TRICKY]), [text[:end]], is_cut=True)
        if end % 13 == 0:
            assert read(parser(form, [TRICKY]), list(text[:end]), is_cut=True) == pieces
        assert not any(isinstance(piece, Content) for piece in pieces), text[:end]
        told = "".join(piece.text for piece in pieces if isinstance(piece, CallArguments))
        assert whole.startswith(told)
        json.loads(completed_object(told))
        assert any(isinstance(piece, CallEnd) for piece in pieces) == (told == whole)


FRAGMENTS = [
    *("a", "B ", "\n", " ", "\t", '"', "'", "\\", "\\n", "é", "😀", "<", ">", "{", "}", ",", "["),
    *(
        "]",
        "12",
        "-",
        "null",
        "True",
        "</parameter>",
        "</arg_value>",
        "</param>",
        "</",
        "<|close|>",
    ),
    *("</function>", "<arg_key>", "</invoke>", "]<]minimax[>[", "\u2028", "&lt;", "```"),
]
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join) | st.text(max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | TEXTS
    | st.floats(allow_nan=False, allow_infinity=False)
)
KEYS = st.sampled_from(["a", "path", "new_text", "x1"])
SIMILAR = st.sampled_from([TEXTS, st.integers(), st.booleans()]).flatmap(
    lambda each: st.lists(each, max_size=3)
)
VALUES = SCALARS | SIMILAR | st.dictionaries(KEYS, SCALARS | SIMILAR, max_size=3)
ARGUMENTS = st.dictionaries(KEYS, VALUES, max_size=4)
SOME_CALLS = st.lists(ARGUMENTS, min_size=1, max_size=2).map(
    lambda many: [(f"f{at}", arguments) for at, arguments in enumerate(many)]
)


@pytest.mark.parametrize("shape", FORMS)
@settings(max_examples=60)
@given(calls=SOME_CALLS, size=st.integers(1, 9))
def test_any_written_call_is_read_back(shape: str, calls: list[Call], size: int) -> None:
    form = FORMS[shape]
    text = written(form, *calls)
    whole = read(parser(form, calls), [text])
    assert equal(calls_in(whole), calls)
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    assert read(parser(form, calls), parts) == whole


@pytest.mark.parametrize("shape", FORMS)
@settings(max_examples=60)
@given(data=st.data())
def test_no_text_is_an_error_and_a_call_is_json(shape: str, data: st.DataObject) -> None:
    form, calls = FORMS[shape], [*CALLS["two"], ("f", {"a": [{"b": "c"}]})]
    tokens = re.findall(r"\w+|\s+|<[^<>]*>|.", written(form, *calls))
    begun = data.draw(st.integers(0, len(tokens)))
    others = data.draw(st.lists(st.sampled_from([*tokens, *FRAGMENTS]), max_size=12))
    parts = [*tokens[:begun], *others]
    pieces = read(parser(form, calls), parts)
    assert read(parser(form, calls), list("".join(parts))) == pieces
    assert read(parser(form, calls), ["".join(parts)]) == pieces
    told = ""
    for piece in pieces:
        if isinstance(piece, CallStart):
            told = ""
        elif isinstance(piece, CallArguments):
            told += piece.text
        elif isinstance(piece, CallEnd) and form.members:
            json.loads(told)


ANY_OF = {"anyOf": [{"type": "integer"}, {"type": "null"}]}


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("12", {"type": "string"}, "12"),
        ("12", {"type": "integer"}, 12),
        ("12", {}, 12),
        ("12", {"type": ["string", "null"]}, "12"),
        ("null", {"type": ["string", "null"]}, None),
        ("null", {"type": "string", "nullable": True}, None),
        ("null", {"type": "string"}, "null"),
        ("None", ANY_OF, None),
        ("true", {"type": "boolean"}, True),
        ("False", {"type": "boolean"}, False),
        ("7", ANY_OF, 7),
        ("7", {"$ref": "#/$defs/none"}, 7),
        ("hello", {"type": "integer"}, "hello"),
        ("hello", {}, "hello"),
        ("nullable", {}, "nullable"),
        ("12 monkeys", {}, "12 monkeys"),
        ('"hello"', {}, '"hello"'),
        ('{"x": [1]}', {}, {"x": [1]}),
        ('{"x": [1]}', {"type": "string"}, '{"x": [1]}'),
        ("{'x': [None, 'it\\'s']}", {"type": "object"}, {"x": [None, "it's"]}),
        ("{x: 1", {"type": "object"}, "{x: 1"),
        ("[1, 2]", {"type": ["array", "string"]}, [1, 2]),
        ("[ ] to do", {"type": ["array", "string"]}, "[ ] to do"),
        ("", {"type": "string"}, ""),
        ("", {"type": "object"}, {}),
        ("", {"type": "null"}, None),
        ("b", {"enum": ["a", "b"]}, "b"),
        ("1", {"enum": [1, 2]}, 1),
    ],
)
def test_the_schema_tells_what_a_raw_value_is(text: str, schema: Any, value: Any) -> None:
    for shape in ("lines", "pairs"):
        assert equal(one_argument(FORMS[shape], text, schema), value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ('"12"', "12"),
        ("Paris, France", "Paris, France"),
        ("None", None),
        ("-2.5", -2.5),
        ('{"a": [1, null]}', {"a": [1, None]}),
    ],
)
def test_a_literal_among_others_needs_no_marks_of_its_own(text: str, value: Any) -> None:
    for shape in ("python", "bare"):
        assert equal(one_argument(FORMS[shape], text), value)


def test_bare_keys_may_have_blanks() -> None:
    assert one_argument(FORMS["bare"], "{a b:None,c d e : [1]}") == {"a b": None, "c d e": [1]}


@pytest.mark.parametrize("text", ["'it\\'s\\n\\\\'", '"it\'s\\n\\\\"', '"it\'s\\u000a\\x5c"'])
def test_quoted_texts_may_have_escapes(text: str) -> None:
    form = FORMS["python"]
    assert form.members
    members = msgspec.structs.replace(form.members, has_escapes=True)
    assert one_argument(msgspec.structs.replace(form, members=members), text) == "it's\n\\"


def test_blanks_around_tags_do_not_matter_but_lines_of_a_text_do() -> None:
    form, calls = FORMS["lines"], [("f", {"a": "x", "b": 1})]
    for text in (
        "<tool_call><function=f><parameter=a>x</parameter><parameter=b>1</parameter></function>"
        "</tool_call>",
        "<tool_call>\n\n<function=f>\n  <parameter=a>\nx\n</parameter>\n\n  <parameter=b>\n\n1\n\n"
        "</parameter>\n </function>\n\n</tool_call>",
    ):
        assert equal(calls_in(read(parser(form, calls), list(text))), calls)
    assert one_argument(form, "\n x\n", {"type": "string"}) == "\n x\n"


def test_a_call_may_lack_its_last_marks_if_the_answer_ended_by_itself() -> None:
    text = "<tool_call>\n<function=f>\n<parameter=a>\nx\n</parameter>\n"
    form, calls = FORMS["lines"], [("f", {"a": "x"})]
    for end in ("", "</fun", "</function>", "</function>\n</tool"):
        assert calls_in(read(parser(form, calls), [text + end])) == calls
    assert CallEnd() not in read(parser(form, calls), [text], is_cut=True)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call> is the mark.",
        "<tool_call>\n<function=f>\nno argument\n</function>\n</tool_call>",
        "<tool_call>\n<function=two names>\n</function>\n</tool_call>",
        "<tool_call>\n<function=>\n</function>\n</tool_call>",
        "<tool_call>\n<function=" + "f" * 600 + ">\n</function>\n</tool_call>",
    ],
)
def test_what_is_no_call_stays_content(text: str) -> None:
    form = FORMS["lines"]
    assert read(parser(form, [("f", {"a": 1})]), [text]) == [Content(text)]
    assert read(parser(form, [("f", {"a": 1})]), list(text)) == [Content(text)]


def test_content_and_reasoning_may_have_marks_of_their_own() -> None:
    """As in Kimi-K3."""
    form, calls = FORMS["typed"], CALLS["two"]
    voice = Voice(
        form,
        takes_tools=True,
        reasoning=ReasoningMarks("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
        content="<|open|>response<|sep|>",
        content_end="<|close|>response<|sep|>",
    )
    text = (
        "<|open|>think<|sep|>Hm.<|close|>think<|sep|><|open|>response<|sep|>Sure <|open|>. "
        f"<|close|>response<|sep|>{written(form, *calls)}"
    )
    for cut in range(len(text)):
        pieces = read(parser(voice, calls), [text[:cut], text[cut:]])
        assert pieces[:2] == [Thought("Hm."), Content("Sure <|open|>.")], text[:cut]
        assert equal(calls_in(pieces[2:]), calls)


def test_marks_may_begin_with_the_end_of_the_prompt() -> None:
    form, calls = FORMS["named-twice"], CALLS["two"]
    begun = "<|start|>assistant"
    voice = Voice(
        form, takes_tools=True, begun=begun, content=f"{begun} to=user<|message|>",
        reasoning=ReasoningMarks(f"{begun} to=self<|message|>", "<|eom|>"),
    )  # fmt: skip
    called = written(form, *calls)
    answers: list[tuple[str, list[Piece], list[Call]]] = [
        (called, [], calls),
        (f"{begun} to=user<|message|>Hello.", [Content("Hello.")], []),
        (f"{begun} to=self<|message|>Hm.<|eom|>{called}", [Thought("Hm.")], calls),
        (f"{begun}Hello.", [Content("Hello.")], []),
        (begun, [], []),
    ]
    for whole, said, called_ones in answers:
        text = whole.removeprefix(begun)
        for cut in range(len(text) + 1):
            reader = parser(voice, calls)
            assert reader.num_held == 0
            pieces = read(reader, [text[:cut], text[cut:]])
            assert pieces[: len(said)] == said, text[:cut]
            assert equal(calls_in(pieces[len(said) :]), called_ones)


def test_a_long_text_streams() -> None:
    """All but what may be a mark, in any form that tells that it is a text."""
    text = "word </para, \n" * 500
    for shape, form in FORMS.items():
        if form.members and form.members.has_escapes:
            continue  # such a text is a literal, which is read as a whole
        for schema in ({"type": "string"}, {}):
            call = ("f", {"a": text})
            whole = written(form, call)
            reader = parser(form, [call], {"f": {"properties": {"a": schema}}})
            num_told = 0
            for at in range(0, len(whole) - 200, 3):
                for piece in reader.push(whole[at : at + 3]):
                    num_told += len(piece.text) if isinstance(piece, CallArguments) else 0
                assert num_told > at - 200, shape


def test_nothing_is_held_of_a_long_literal_but_the_end() -> None:
    call = ("f", {"a": [1.5] * 1000})
    for shape, form in FORMS.items():
        whole = written(form, call)
        reader = parser(form, [call])
        for at in range(0, len(whole), 3):
            reader.push(whole[at : at + 3])
            assert reader.num_held < 600, shape
