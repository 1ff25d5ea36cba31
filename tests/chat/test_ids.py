"""The ids that models write in calls: given to clients, and back in the next prompt."""

import json

import pytest
from chat_templates import NEMO, template
from written_calls import FORMS, Call, written

from localinfra.chat.answer import Tool, parser_of
from localinfra.chat.formats.form import ID, INDEX, NAME, CallForm, Voice
from localinfra.chat.formats.pieces import CallArguments, CallEnd, CallStart, Piece, joined
from localinfra.chat.ids import CallIds, ids_in
from localinfra.chat.messages import FunctionCall, Message, ToolCall

FIRST = CallForm(  # Mistral Small 3.2
    trigger="[TOOL_CALLS]",
    before=f"[TOOL_CALLS]{NAME}[CALL_ID]{ID}[ARGS]",
    after="",
    has_short_ids=True,
)
LAST = FORMS["json-with-ids"]  # Mistral Nemo
CALLS: list[Call] = [("look", {"a": 1}), ("take", {"b": "x"})]
TOOLS = [Tool(name, {}, None, "tools") for name in ("look", "take")]


def read(
    form: CallForm, text: str, *, used: frozenset[str] = frozenset(), size: int = 3
) -> list[Piece]:
    """The pieces of an answer, as a route gets them."""
    parser = parser_of(Voice(form, takes_tools=True), tools=TOOLS, is_thinking=False)
    assert parser
    ids = CallIds(form, used)
    pieces: list[Piece] = []
    for at in range(0, len(text), size):
        pieces += ids.push(parser.push(text[at : at + size]))
    return joined([*pieces, *ids.push(parser.finish()), *ids.finish()])


def given(form: CallForm, text: str, *, used: frozenset[str] = frozenset()) -> list[str]:
    [found] = {
        tuple(piece.id for piece in read(form, text, used=used, size=size)
              if isinstance(piece, CallStart))
        for size in (1, 4, len(text))
    }  # fmt: skip
    return [*found]


@pytest.mark.parametrize("form", [FIRST, LAST])
def test_a_call_keeps_the_id_that_its_model_wrote(form: CallForm) -> None:
    assert given(form, written(form, *CALLS)) == ["abcdefgh0", "abcdefgh1"]


@pytest.mark.parametrize("form", [FIRST, LAST])
def test_an_id_that_the_conversation_has_is_not_given_again(form: CallForm) -> None:
    earlier = [Message("assistant", None, tool_calls=[ToolCall(FunctionCall("f"), "abcdefgh1")])]
    assert given(form, written(form, *CALLS), used=ids_in(earlier)) == ["abcdefgh0", ""]
    twice = written(form, *CALLS).replace("abcdefgh1", "abcdefgh0")
    assert given(form, twice) == ["abcdefgh0", ""]


def test_an_id_that_not_all_clients_take_is_not_given() -> None:
    text = written(FIRST, *CALLS).replace("abcdefgh0", "functions.look:0")
    assert given(FIRST, text.replace("abcdefgh1", "x" * 41)) == ["", ""]


def test_calls_of_forms_without_ids_have_none() -> None:
    assert given(FORMS["lines"], written(FORMS["lines"], *CALLS)) == ["", ""]


def test_a_call_with_its_id_last_is_held_back_until_then() -> None:
    text = written(LAST, CALLS[0])
    cut = text.index("abcdefgh0")
    arguments = CallArguments('{"a": 1}')
    whole = [CallStart("look", "abcdefgh0"), arguments, CallEnd("abcdefgh0")]
    assert read(LAST, text) == whole
    assert read(LAST, text[:cut]) == [CallStart("look"), arguments, CallEnd()]


def test_the_next_prompt_has_the_call_as_the_model_wrote_it() -> None:
    # The id is the last member of each call's JSON.
    end = """(call.function | tojson)[:-1] ~ ', "id": "' ~ call.id ~ '"}'"""
    nemo = template(NEMO.replace("call.function | tojson ~ call.id", end))
    asked = Message("user", "Look.")
    form = nemo.voice.calls
    ids = given(form, text := written(form, *CALLS))
    calls = [
        ToolCall(FunctionCall(name, json.dumps(arguments)), id)
        for (name, arguments), id in zip(CALLS, ids, strict=True)
    ]
    results = [Message("tool", "Seen.", tool_call_id=id) for id in ids]
    conversation = [asked, Message("assistant", None, tool_calls=calls), *results]
    assert nemo.render(conversation).text.startswith(nemo.render([asked]).text + text)


# As Kimi K2 has it since September 2025: the name stands only in the id.
KIMI = """{% for message in messages %}<|im_{{ message.role }}|>
{%- if message.role == 'tool' %}## Return of {{ message.tool_call_id }}
{% endif %}{{ message.content or '' }}
{%- if message.tool_calls %}<|calls|>{% for call in message.tool_calls %}
{{- '<|call|>' ~ call['id'] ~ '<|args|>' ~ call.function.arguments | tojson ~ '<|end|>' }}
{%- endfor %}<|calls_end|>{% endif %}<|im_end|>
{%- endfor %}{% if tools %}{{ tools | tojson }}{% endif %}
{%- if add_generation_prompt %}<|im_assistant|>{% endif %}"""


def test_ids_that_hold_the_names_of_functions_are_made_as_the_model_writes_them() -> None:
    kimi = template(KIMI)
    assert kimi.voice.writes_calls and kimi.voice.calls.ids == f"functions.{NAME}:{INDEX}"
    text = "<|calls|><|call|>functions.look:0<|args|>{}<|end|>"
    text += '<|call|>functions.take:1<|args|>{"b": "x"}<|end|><|calls_end|>'
    found = read(kimi.voice.calls, text)
    assert [piece.name for piece in found if isinstance(piece, CallStart)] == ["look", "take"]
    assert given(kimi.voice.calls, text) == ["", ""]  # any id will do: it is made again

    def calls(*names: str, ids: tuple[str | None, ...]) -> list[Message]:
        made = [
            ToolCall(FunctionCall(name, "{}" if name == "look" else '{"b": "x"}'), id)
            for name, id in zip(names, ids, strict=True)
        ]
        results = [Message("tool", f"Seen {id}.", tool_call_id=id) for id in reversed(ids)]
        return [Message("assistant", None, tool_calls=made), *results]

    asked = Message("user", "Look.")
    first = calls("look", "take", ids=("call_x", "functions.take:1"))
    prompt = kimi.render([asked, *first, *calls("look", ids=(None,)), asked]).text
    assert prompt.startswith(kimi.render([asked]).text + text)
    returns = [line.partition("\n")[::2] for line in prompt.split("## Return of ")[1:]]
    assert [(id, content.partition("<")[0]) for id, content in returns] == [
        ("functions.take:1", "Seen functions.take:1."),
        ("functions.look:0", "Seen call_x."),
        ("functions.look:2", "Seen None."),
    ]
