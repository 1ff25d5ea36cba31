"""How model families mark tool calls and reasoning, one entry each, and which one a template uses.

Pure data; `marked.py` parses answers by it and `chat/grammar.py` constrains them.
"""

import msgspec

from localinfra.chat.formats.form import NAME, CallForm, ReasoningMarks, Voice


class Dialect(msgspec.Struct, frozen=True):
    name: str
    signs: tuple[str, ...]  # all occur in the family's templates
    calls: CallForm
    others: tuple[str, ...] = ()  # signs of other families that share `signs`; none may occur


HERMES = CallForm(
    trigger="<tool_call>",
    before='<tool_call>\n{"name": "' + NAME + '", "arguments": ',
    after="}\n</tool_call>",
    separator="\n",
)

# The first with all its signs is used. Source: the chat templates in each family's GGUF files.
DIALECTS = (
    Dialect(
        "deepseek-3.1",
        ("<｜tool▁call▁begin｜>' + tool['function']['name']",),
        CallForm(
            trigger="<｜tool▁calls▁begin｜>",
            opening="<｜tool▁calls▁begin｜>",
            before="<｜tool▁call▁begin｜>" + NAME + "<｜tool▁sep｜>",
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
            before="<｜tool▁call▁begin｜>function<｜tool▁sep｜>" + NAME + "\n```json\n",
            after="\n```<｜tool▁call▁end｜>",
            separator="\n",
            closing="<｜tool▁calls▁end｜>",
        ),
    ),
    Dialect(
        "mistral-args",
        ("[TOOL_CALLS]", "[ARGS]"),
        CallForm(trigger="[TOOL_CALLS]", before="[TOOL_CALLS]" + NAME + "[ARGS]", after=""),
    ),
    Dialect(
        "mistral",
        ("[TOOL_CALLS]",),
        CallForm(
            trigger="[TOOL_CALLS]",
            opening="[TOOL_CALLS][",
            before='{"name": "' + NAME + '", "arguments": ',
            after="}",
            separator=", ",
            closing="]",
        ),
    ),
    Dialect("hermes", ("<tool_call>", '"arguments"'), HERMES),
    Dialect(  # not Qwen3-Coder and GLM, whose calls are XML
        "hermes", ("<tool_call>", "arguments", "tojson"), HERMES, others=("<function=", "<arg_key>")
    ),
    Dialect(
        "llama",
        ('"parameters"', "ipython"),
        CallForm(
            trigger="{",
            before='{"name": "' + NAME + '", "parameters": ',
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
            before='{"name": "' + NAME + '", "parameters": ',
            after="}",
            separator="\n",
            only_at_start=True,
        ),
    ),
)

# For models whose template knows no tools: the instruction in `generic.py` asks for this form.
GENERIC = HERMES

# gpt-oss: everything is a message on a channel. (Its cookbook, "OpenAI harmony response format".)
HARMONY_SIGNS = ("<|channel|>", "<|message|>", "<|start|>assistant")
HARMONY = Voice(
    calls=CallForm(
        trigger="<|channel|>commentary to=",
        before="<|channel|>commentary to=functions." + NAME + " <|constrain|>json<|message|>",
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
    """Recognizes the family by the marks in its template's source."""
    if all(sign in template for sign in HARMONY_SIGNS):
        return HARMONY
    dialect = dialect_of(template)
    return Voice(
        calls=dialect.calls if dialect else GENERIC,
        takes_tools=dialect is not None,
        reasoning=next((marks for marks in REASONING if marks.end in template), None),
    )


def dialect_of(template: str) -> Dialect | None:
    """None if the template takes no tools or shows no known form of calls."""
    if "tools" not in template:
        return None
    for dialect in DIALECTS:
        if all(sign in template for sign in dialect.signs):
            if not any(sign in template for sign in dialect.others):
                return dialect
    return None
