"""Values that are valid by a schema of the OpenAPI document, and some that nearly are."""

from collections.abc import Mapping
from random import Random
from typing import Any

from fuzzing.values import NUMBERS, TEXTS, Json, strange

DEEPEST = 7
WORDS = ("Hello", "river", "Name three rivers.", "a", "user", "b c", "1", "x" * 40)


class Schemas:
    """Draws values by schemas that may refer to the components of one document."""

    def __init__(self, document: Mapping[str, Any]):
        self._components: Mapping[str, Any] = document["components"]["schemas"]

    def value(self, schema: Any, draw: Random, oddity: float, depth: int = 0) -> Json:
        """`oddity`: how likely a place gets a strange value in place of a valid one."""
        if draw.random() < oddity:
            return strange(draw)
        while "$ref" in schema:
            schema = self._components[schema["$ref"].rpartition("/")[2]]
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return draw.choice(schema["enum"])
        for word in ("anyOf", "oneOf"):
            if word in schema:
                others = schema[word]
                flat = [one for one in others if "$ref" not in one] if depth > DEEPEST else []
                return self.value(draw.choice(flat or others), draw, oddity, depth)
        kind = schema.get("type")
        kinds = kind if isinstance(kind, list) else [kind]
        return getattr(self, f"_{draw.choice(kinds) or 'any'}")(schema, draw, oddity, depth)

    def _object(self, schema: Any, draw: Random, oddity: float, depth: int) -> Json:
        properties = schema.get("properties", {})
        required = set(schema.get("required", ()))
        share = draw.choice((0.0, 0.1, 0.3, 0.7)) if depth < DEEPEST else 0.0
        found = {
            name: self.value(one, draw, oddity, depth + 1)
            for name, one in properties.items()
            if (name in required) != (draw.random() < oddity) or draw.random() < share
        }
        others = schema.get("additionalProperties", not properties)
        if others and depth < DEEPEST:
            other = others if isinstance(others, dict) else {}
            for _ in range(draw.choice((0, 1, 2))):
                name = draw.choice((*WORDS, *map(str, NUMBERS[:12])))
                found[name] = self.value(other, draw, oddity, depth + 1)
        return found

    def _array(self, schema: Any, draw: Random, oddity: float, depth: int) -> Json:
        least = schema.get("minItems", 0)
        most = min(schema.get("maxItems", 9), least + draw.choice((0, 1, 2, 4)))
        item = schema.get("items", {})
        if depth > DEEPEST:
            most = least
        return [self.value(item, draw, oddity, depth + 1) for _ in range(draw.randint(least, most))]

    def _string(self, schema: Any, draw: Random, oddity: float, depth: int) -> Json:
        text = draw.choice((*WORDS, *WORDS, *TEXTS))
        least, most = schema.get("minLength", 0), schema.get("maxLength", 1 << 30)
        return (text + "a" * least)[: max(most, least)]

    def _number(self, schema: Any, draw: Random, oddity: float, depth: int) -> Json:
        low, high = borders(schema)
        return draw.choice((low, high, draw.uniform(low, high), draw.uniform(low, high)))

    def _integer(self, schema: Any, draw: Random, oddity: float, depth: int) -> Json:
        low, high = borders(schema)
        near = draw.randint(int(low), int(min(high, low + 20)))
        return draw.choice((int(low), int(high), near, near))

    def _boolean(self, schema: Any, draw: Random, oddity: float, depth: int) -> Json:
        return draw.random() < 0.5

    def _null(self, schema: Any, draw: Random, oddity: float, depth: int) -> Json:
        return None

    def _any(self, schema: Any, draw: Random, oddity: float, depth: int) -> Json:
        return draw.choice((1, "a", None, True, [1], {"a": "b"}, strange(draw)))


def borders(schema: Any) -> tuple[float, float]:
    """The least and the greatest value."""
    step = 1 if schema.get("type") == "integer" else 1e-6
    low = schema.get("minimum", schema.get("exclusiveMinimum", -5) + step)
    high = schema.get("maximum", schema.get("exclusiveMaximum", 1000) - step)
    return low, max(low, high)
