"""Forms of calls of every shape, a writer of calls in them, and what their grammars accept."""

import functools
import json
import re
from collections.abc import Iterable, Mapping

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from localinfra.chat.answer import Answer, GrammarSource, Tool, ToolUse, grammar_of
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
from localinfra.chat.formats.generic import GENERIC
from localinfra.chat.messages import Json
from localinfra.engine.grammar.probe import LIMITS

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
    trigger="<|call|> to=",
    before=f'<|call|> to={NAME}<|sep|><calls>\n<invoke name="{NAME}">\n',
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
    """A compiled grammar. `tokens`: control tokens."""

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

    def rest_of(self, text: str) -> str | None:
        """What follows the longest beginning that is an answer; None if there is none."""
        walker = self.matcher.deep_copy()
        data, end = text.encode(), None
        for at in range(len(data) + 1):
            if walker.is_accepting():
                end = at
            if at == len(data) or walker.is_stopped() or walker.validate_tokens([data[at]]) != 1:
                break
            walker.consume_token(data[at])
        return None if end is None else data[end:].decode(errors="replace")


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
