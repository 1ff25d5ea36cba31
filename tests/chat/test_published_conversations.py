"""Published templates: each shows every text, call and tool of a conversation, or is made to."""

import functools
import sys
from pathlib import Path

import pytest
from published_templates import folder

from localinfra.chat.messages import FunctionCall, Json, Message, ToolCall
from localinfra.chat.template import ChatTemplate

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from nextprompts import after_calls

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SYSTEM, DEVELOPER = Message("system", "Systemtext"), Message("developer", "Developertext")
ASKED, ASKED_AGAIN = Message("user", "Usertext"), Message("user", "Secondtext")
ANSWERED = Message("assistant", "Answertext")
IDS = ("call_0123456789abcdef01234567", "call_1123456789abcdef01234567")


def calls(text: str | None) -> list[Message]:
    """Two calls and their results."""
    functions = FunctionCall("funone", '{"alpha":"Arga","beta":517}'), FunctionCall("funtwo", "{}")
    called = [ToolCall(function, id) for function, id in zip(functions, IDS, strict=True)]
    results = [Message("tool", f"Result{at}text", tool_call_id=id) for at, id in enumerate(IDS)]
    return [Message("assistant", text, tool_calls=called), *results]


def tool(name: str, parameters: dict[str, Json]) -> dict[str, Json]:
    function: dict[str, Json] = {"name": name, "description": "Does", "parameters": parameters}
    return {"type": "function", "function": function}


TOOLS = [
    tool("funone", {"type": "object", "properties": {"alpha": {"type": ["string", "null"]}}}),
    tool("funtwo", {"type": "object"}),
    tool("funthree", {"type": "object", "properties": {"a": {"type": "object"}, "b": True}}),
]
CONVERSATIONS = {
    "calls": [SYSTEM, ASKED, *calls("Saidtext"), ASKED_AGAIN, ANSWERED, ASKED],
    "calls without text": [DEVELOPER, ASKED, *calls(None), ASKED_AGAIN],
    "calls beside an empty text": [ASKED, *calls("")],
    "no calls": [SYSTEM, DEVELOPER, ASKED, ANSWERED, ASKED_AGAIN],
    "a late system message": [ASKED, ANSWERED, SYSTEM, ASKED_AGAIN],
    "two users in a row": [ASKED, ASKED_AGAIN],
    "an answer to be continued": [SYSTEM, ASKED, ANSWERED],
}


@functools.cache
def templates() -> dict[str, ChatTemplate]:
    return {
        path.stem: ChatTemplate(
            path.read_text(encoding="utf-8"), bos_token="", eos_token="", special_tokens=[]
        )
        for path in sorted(folder().glob("*.jinja"))
    }


@pytest.mark.parametrize("has_tools", [True, False], ids=["tools", "no tools"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_no_template_drops_anything(name: str, has_tools: bool) -> None:
    conversation = CONVERSATIONS[name]
    words = [str(message.content) for message in conversation if message.content]
    if any(message.tool_calls for message in conversation):
        words += ["funone", "Arga", "517", "funtwo"]
    if has_tools:
        words += ["funone", "funtwo", "funthree"]
    for published, template in templates().items():
        prompt = template.render(conversation, tools=TOOLS if has_tools else None)
        assert [word for word in words if word not in prompt.text] == [], published
        assert prompt.is_continued == (conversation[-1] is ANSWERED), published


# What their prompts begin an answer with is not in their history; or history has ids of calls,
# which an answer has not.
BEGIN_OTHERWISE = {
    *("Apriel-1.6-15b-Thinker-fixed", "CohereForAI-c4ai-command-r-plus-tool_use"),
    *("NVIDIA-Nemotron-Nano-v2", "Qwen-QwQ-32B", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B"),
    *("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek-ai-DeepSeek-V3.2"),
    *("google-gemma-4-31B-it", "google-gemma-4-31B-it-interleaved", "llama-cpp-deepseek-r1"),
    "unsloth-Apriel-1.5",
}


def test_the_prompt_with_results_begins_with_the_last_prompt_and_its_answer() -> None:
    others = {name for name, template in templates().items() if not after_calls(template).is_kept}
    assert others == BEGIN_OTHERWISE


# What they leave out themselves: earlier reasoning, or all but an empty one.
NEVER_SHOWN = {
    *("Apriel-1.6-15b-Thinker-fixed", "NVIDIA-Nemotron-Nano-v2", "Qwen-QwQ-32B"),
    *("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B"),
    *("deepseek-ai-DeepSeek-V3.1", "llama-cpp-deepseek-r1", "llama-cpp-rwkv-world"),
}


def test_reasoning_beside_calls_is_shown_once_by_templates_that_show_any() -> None:
    asked, *results = calls(None)
    said = Message("assistant", None, tool_calls=asked.tool_calls, reasoning="Thoughttext\n")
    both = {"enable_thinking": True, "thinking": True}
    wrong: dict[str, int] = {}
    for published, template in templates().items():
        if not template.voice.reasoning:
            continue
        prompt = template.render([ASKED, said, *results], tools=TOOLS, extra=both).text
        if prompt.count("Thoughttext") != (published not in NEVER_SHOWN):
            wrong[published] = prompt.count("Thoughttext")
    assert wrong == {}
