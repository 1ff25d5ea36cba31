"""What is wrong with a grammar or schema is told in terms of the client's own text."""

import msgspec
import pytest

from localinfra.chat.answer import Answer, AnswerFormat, grammar_of
from localinfra.engine.grammar.errors import reason
from localinfra.engine.grammar.prober import Prober
from localinfra.errors import InvalidRequest

WRONG: list[tuple[AnswerFormat, str]] = [
    (AnswerFormat("regex", "p", text="a(?!b)"), r"the regex a\(\?!b\) can't be used: look-around"),
    (AnswerFormat("regex", "p", text=r"(a)\1"), "backreferences are not supported"),
    (AnswerFormat("regex", "p", text="(a"), r"the regex \(a can't be used: unclosed group"),
    (AnswerFormat("lark", "p", text="start: x\nx: y"), 'line 2, column 4: unknown name: "y"'),
    (AnswerFormat("lark", "p", text='start: "a" "b'), "column 14: here is a quote without"),
    (AnswerFormat("lark", "p", text="start: A\nA: B\nB: A"), 'line 3, .*in token "A"'),
    (AnswerFormat("lark", "p", text="start: A\nA: /[z-a]/"), r"line 2, .*the regex \[z-a\]"),
    (AnswerFormat("lark", "p", text="start: start"), "no text at all can follow its rules"),
    (AnswerFormat("json", "p", {"type": "string", "pattern": "(?<=a)b"}), r"\(\?<=a\)b can't be"),
    (
        AnswerFormat("json", "p", {"type": "string", "minLength": 3, "maxLength": 1}),
        r"no value is valid by this schema \(minLength \(3\) is greater than maxLength \(1",
    ),
]


@pytest.mark.parametrize(("wanted", "told"), WRONG, ids=range(len(WRONG)))
def test_the_reason_is_told_without_what_is_ours(wanted: AnswerFormat, told: str) -> None:
    source = grammar_of(Answer(wanted), None, {}, False)
    assert source
    prober = Prober()
    with pytest.raises(InvalidRequest, match=told) as caught:
        prober.check(source.text, "p")
    prober.close()
    message = str(caught.value)
    assert message.startswith("This can't be made a constraint: ")
    assert "\n" not in message and "llguidance" not in message and "NoExtension" not in message
    assert "no_forcing" not in msgspec.json.encode(message).decode()


def test_of_long_reasons_the_beginning_is_told() -> None:
    assert reason("x" * 9000) == "x" * 500
    assert reason("") == "no reason was given"
