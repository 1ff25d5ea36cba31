"""What templates read besides the messages, under the names and in the shapes that they expect."""

import datetime
import json
from collections.abc import Callable, Collection

from localinfra.chat.messages import Json

MAX_DATE_FORMAT_CHARS = 100  # each may expand to 256 characters
MAX_LEVELS = 32  # of a schema; deeper ones are left as they are


def server_values(
    *, bos_token: str, eos_token: str, add_generation_prompt: bool, now: datetime.datetime
) -> dict[str, object]:
    """`datetime`: firefunction's name for today."""
    return {
        "bos_token": bos_token,
        "eos_token": eos_token,
        "add_generation_prompt": add_generation_prompt,
        "strftime_now": _clock(now),
        "datetime": now.date().isoformat(),
    }


def with_functions(variables: dict[str, Json], read: Collection[str]) -> dict[str, Json]:
    """firefunction's template reads `functions`, the tools as text, instead of `tools`."""
    if "functions" not in read or "tools" in read or "functions" in variables:
        return variables
    text = json.dumps(variables["tools"] or [], ensure_ascii=False, indent=4)
    return {**variables, "functions": text}


def complete(tools: list[Json]) -> list[Json]:
    """The tools with what some templates read without asking for it: a description and a single
    type of each parameter, and of what is in it. For such templates only: others show tools as
    clients send them."""
    return [_with_parameters(tool) if isinstance(tool, dict) else tool for tool in tools]


def _with_parameters(tool: dict[str, Json]) -> Json:
    function = tool.get("function")
    parameters = function.get("parameters") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(parameters, dict):
        return tool
    schema = _complete({"properties": {}, **parameters}, MAX_LEVELS)
    return {**tool, "function": {**function, "parameters": schema}}


def _complete(schema: Json, levels: int) -> Json:
    if schema is True:
        schema = {}
    if not isinstance(schema, dict) or not levels:
        return schema
    changed: dict[str, Json] = {"description": "", **schema}
    if isinstance(kinds := schema.get("type"), list):
        changed["type"] = next((kind for kind in kinds if kind != "null"), "null")
    if "items" in schema or changed.get("type") == "array":
        changed["items"] = _complete(schema.get("items", {}), levels - 1)
    if changed.get("type") == "object" and not isinstance(schema.get("additionalProperties"), dict):
        changed["additionalProperties"] = {}
    if isinstance(properties := schema.get("properties"), dict):
        parts = {name: _complete(part, levels - 1) for name, part in properties.items()}
        changed["properties"] = parts
    return changed


def _clock(now: datetime.datetime) -> Callable[[str], str]:
    def strftime_now(format: str) -> str:
        if len(format) > MAX_DATE_FORMAT_CHARS:
            raise ValueError("the date format is too long")
        return now.strftime(format)

    return strftime_now
