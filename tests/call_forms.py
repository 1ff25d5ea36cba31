"""Forms of tool calls and marks of reasoning that models of well-known families use."""

from localinfra.chat.formats.form import NAME, CallForm, ReasoningMarks
from localinfra.chat.formats.generic import GENERIC

THINK = ReasoningMarks("<think>", "</think>")
REASONING = (
    THINK,
    ReasoningMarks("[THINK]", "[/THINK]"),
    ReasoningMarks("<seed:think>", "</seed:think>"),
    ReasoningMarks("<|channel>thought\n", "<channel|>"),
)

FORMS = {
    "generic": GENERIC,
    "hermes": GENERIC,
    "deepseek-3.1": CallForm(
        trigger="<｜tool▁calls▁begin｜>",
        opening="<｜tool▁calls▁begin｜>",
        before="<｜tool▁call▁begin｜>" + NAME + "<｜tool▁sep｜>",
        after="<｜tool▁call▁end｜>",
        closing="<｜tool▁calls▁end｜>",
    ),
    "deepseek": CallForm(
        trigger="<｜tool▁calls▁begin｜>",
        opening="<｜tool▁calls▁begin｜>",
        before="<｜tool▁call▁begin｜>function<｜tool▁sep｜>" + NAME + "\n```json\n",
        after="\n```<｜tool▁call▁end｜>",
        separator="\n",
        closing="<｜tool▁calls▁end｜>",
    ),
    "mistral-args": CallForm("[TOOL_CALLS]", "[TOOL_CALLS]" + NAME + "[ARGS]", ""),
    "mistral": CallForm(
        trigger="[TOOL_CALLS]",
        opening="[TOOL_CALLS][",
        before='{"name": "' + NAME + '", "arguments": ',
        after="}",
        separator=", ",
        closing="]",
    ),
    "llama": CallForm(
        trigger="{",
        before='{"name": "' + NAME + '", "parameters": ',
        after="}",
        separator="; ",
        only_at_start=True,
        prefix="<|python_tag|>",
    ),
    "gemma": CallForm(
        trigger="{",
        before='{"name": "' + NAME + '", "parameters": ',
        after="}",
        separator="\n",
        only_at_start=True,
    ),
}
