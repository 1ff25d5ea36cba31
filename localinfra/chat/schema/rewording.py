"""Rewrites keywords into equivalent ones that llguidance knows. Pure."""

from decimal import Decimal

from localinfra.chat.messages import Json
from localinfra.chat.schema.keywords import BOUNDS, IN_PLACE

MAX_EXACT = 2**53  # llguidance's numbers are doubles


def as_draft_2020(said: dict[str, Json]) -> dict[str, str]:
    """Rewrites earlier drafts in place: tuples in `items`, and exclusive limits as flags. Returns
    new keyword → the client's."""
    written = {}
    items, others = said.get("items"), said.pop("additionalItems", None)
    if isinstance(items, list):
        del said["items"]
        if items:
            said["prefixItems"], written["prefixItems"] = items, "items"
        if others is not None:
            said["items"], written["items"] = others, "additionalItems"
    for flag, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        is_exclusive = said.get(flag)
        if isinstance(is_exclusive, bool):
            del said[flag]
            if is_exclusive and limit in said:
                said[flag] = said.pop(limit)
    return written


def num_states(multiple: Json) -> int:
    """States of an automaton for its multiples: the number without its decimal point."""
    digits = Decimal(str(multiple)).as_tuple()
    exponent = digits.exponent if isinstance(digits.exponent, int) else 0
    shift: int = 10 ** min(max(exponent, 0), 9)
    return int("".join(map(str, digits.digits))) * shift


def clamped(key: str, value: Json) -> Json:
    """Tightens a limit beyond exact doubles, such as one of 64-bit integers, to the largest exact
    one."""
    if key not in BOUNDS or not isinstance(value, int | float) or isinstance(value, bool):
        return value
    if key in ("minimum", "exclusiveMinimum"):
        return -MAX_EXACT if value < -MAX_EXACT else value
    return MAX_EXACT if value > MAX_EXACT else value


def or_null(schema: dict[str, Json]) -> dict[str, Json]:
    """The schema with OpenAPI's `nullable: true`."""
    kind = schema.get("type")
    values = schema.get("enum")
    if kind is not None and "const" not in schema and not schema.keys() & set(IN_PLACE):
        kinds = kind if isinstance(kind, list) else [kind]
        wider = {**schema, "type": [*kinds, *([] if "null" in kinds else ["null"])]}
        if isinstance(values, list) and None not in values:
            wider["enum"] = [*values, None]
        return wider
    return {"anyOf": [schema, {"type": "null"}]} if schema else schema
