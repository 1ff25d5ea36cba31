"""How model families mark tool calls and reasoning: one entry each; which one a template speaks.

Pure data; `marked.py` reads texts by it and `chat/grammar.py` constrains them.
"""

import msgspec


class CallForm(msgspec.Struct, frozen=True):
    """The text of tool calls: `opening`, then for each call `before`, its name, `between`, its
    arguments as JSON, `after`, with `separator` between two, then `closing`.

    `trigger` is how the text of calls begins and no other does; where it is not special enough for
    that, calls are only looked for at the start of an answer.
    """

    before: str
    between: str
    after: str
    trigger: str
    opening: str = ""
    separator: str = ""
    closing: str = ""
    only_at_start: bool = False
    prefix: str = ""  # may come before the trigger at the start, and says nothing


class ReasoningMarks(msgspec.Struct, frozen=True):
    begin: str
    end: str

    def is_open_at_end_of(self, prompt: str) -> bool:
        return prompt.rstrip().endswith(self.begin.rstrip())


class Dialect(msgspec.Struct, frozen=True):
    name: str
    signs: tuple[str, ...]  # all are in the templates of the family
    calls: CallForm
    others: tuple[str, ...] = ()  # signs of others that share those; none is in its templates


class Voice(msgspec.Struct, frozen=True):
    """How the model behind one template answers."""

    calls: CallForm
    takes_tools: bool  # the template itself tells the model of them
    reasoning: ReasoningMarks | None = None
    content: str = ""  # stands before content, where everything is marked (gpt-oss)

    @property
    def marks(self) -> str:
        """All its marks in one text."""
        parts = [*msgspec.structs.astuple(self.calls), self.content]
        parts += msgspec.structs.astuple(self.reasoning) if self.reasoning else ()
        return " ".join(part for part in parts if isinstance(part, str))


HERMES = CallForm(
    trigger="<tool_call>",
    before='<tool_call>\n{"name": "',
    between='", "arguments": ',
    after="}\n</tool_call>",
    separator="\n",
)

# The first whose signs are all there. Sources: the chat templates in the GGUF files of each family.
DIALECTS = (
    Dialect(
        "deepseek-3.1",
        ("<｜tool▁call▁begin｜>' + tool['function']['name']",),
        CallForm(
            trigger="<｜tool▁calls▁begin｜>",
            opening="<｜tool▁calls▁begin｜>",
            before="<｜tool▁call▁begin｜>",
            between="<｜tool▁sep｜>",
            after="<｜tool▁call▁end｜>",
            closing="<｜tool▁calls▁end｜>",
        ),
    ),
    Dialect(
        "deepseek",
        ("<｜tool▁call▁begin｜>",),
        CallForm(
            trigger="<｜tool▁calls▁begin｜>",
            opening="<｜tool▁calls▁begin｜>",
            before="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
            between="\n```json\n",
            after="\n```<｜tool▁call▁end｜>",
            separator="\n",
            closing="<｜tool▁calls▁end｜>",
        ),
    ),
    Dialect(
        "mistral-args",
        ("[TOOL_CALLS]", "[ARGS]"),
        CallForm(trigger="[TOOL_CALLS]", before="[TOOL_CALLS]", between="[ARGS]", after=""),
    ),
    Dialect(
        "mistral",
        ("[TOOL_CALLS]",),
        CallForm(
            trigger="[TOOL_CALLS]",
            opening="[TOOL_CALLS][",
            before='{"name": "',
            between='", "arguments": ',
            after="}",
            separator=", ",
            closing="]",
        ),
    ),
    Dialect("hermes", ("<tool_call>", '"arguments"'), HERMES),
    Dialect(  # with XML: Qwen3-Coder, GLM
        "hermes", ("<tool_call>", "arguments", "tojson"), HERMES, others=("<function=", "<arg_key>")
    ),
    Dialect(
        "llama",
        ('"parameters"', "ipython"),
        CallForm(
            trigger="{",
            before='{"name": "',
            between='", "parameters": ',
            after="}",
            separator="; ",
            only_at_start=True,
            prefix="<|python_tag|>",
        ),
    ),
    Dialect(
        "gemma",
        ("<start_of_turn>", '"parameters"'),
        CallForm(
            trigger="{",
            before='{"name": "',
            between='", "parameters": ',
            after="}",
            separator="\n",
            only_at_start=True,
        ),
    ),
)

# What a model is told to write whose template knows no tools (`generic.py` has the instruction).
GENERIC = HERMES

# gpt-oss: everything is a message on a channel. (Its cookbook, "OpenAI harmony response format".)
HARMONY_SIGNS = ("<|channel|>", "<|message|>", "<|start|>assistant")
HARMONY = Voice(
    calls=CallForm(
        trigger="<|channel|>commentary to=",
        before="<|channel|>commentary to=functions.",
        between=" <|constrain|>json<|message|>",
        after="",
    ),
    takes_tools=True,
    reasoning=ReasoningMarks("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
    content="<|channel|>final<|message|>",
)

REASONING = (
    ReasoningMarks("<think>", "</think>"),
    ReasoningMarks("[THINK]", "[/THINK]"),
    ReasoningMarks("<seed:think>", "</seed:think>"),
    ReasoningMarks("<|channel>thought\n", "<channel|>"),
)


def voice_of(template: str) -> Voice:
    """By what the template's source shows of the family's marks."""
    if all(sign in template for sign in HARMONY_SIGNS):
        return HARMONY
    dialect = dialect_of(template)
    return Voice(
        calls=dialect.calls if dialect else GENERIC,
        takes_tools=dialect is not None,
        reasoning=next((marks for marks in REASONING if marks.end in template), None),
    )


def dialect_of(template: str) -> Dialect | None:
    """None where it shows no way to call tools, or takes none at all."""
    if "tools" not in template:
        return None
    for dialect in DIALECTS:
        if all(sign in template for sign in dialect.signs):
            if not any(sign in template for sign in dialect.others):
                return dialect
    return None
