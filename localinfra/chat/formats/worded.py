"""Recognizes the form of calls that a template describes to the model, but doesn't write itself."""

import re

from localinfra.chat.formats.form import NAME, CallForm

# "respond only with <|tool_call|> followed by a JSON list of tools used"
LISTED = re.compile(r"(<\|?\w*tool_?calls?\w*\|?>)[^<\n]{0,40}\bJSON (?:list|array)\b", re.I)


def worded_form(instruction: str) -> CallForm | None:
    """`instruction`: what the template tells the model before the conversation."""
    found = LISTED.search(instruction)
    if not found:
        return None
    return CallForm(
        trigger=found[1],
        opening=f"{found[1]}[",
        before=f'{{"name": "{NAME}", "arguments": ',
        after="}",
        separator=", ",
        closing="]",
    )
