"""Answers by a JSON schema, shared by the benchmarks. Standard library only."""

import json

from benchlib import Server, Unmeasurable, user, words


def record(properties: dict[str, object]) -> dict[str, object]:
    """The JSON schema of an object with exactly these properties."""
    required = list(properties)
    fixed = {"type": "object", "additionalProperties": False}
    return {**fixed, "properties": properties, "required": required}


TEXT = {"type": "string", "minLength": 3, "maxLength": 16}  # bounded: some models never stop
REVIEW = {
    "title": TEXT,
    "author": record({"name": TEXT, "country": {"enum": ["France", "Japan", "Kenya", "Peru"]}}),
    "tags": {"type": "array", "items": TEXT, "minItems": 6, "maxItems": 6},
    "rating": {"enum": [1, 2, 3, 4, 5]},
    "recommended": {"type": "boolean"},
}


def ask_review(server: Server, seed: str) -> tuple[int, float]:
    """The number of tokens of an answer that follows REVIEW, and the seconds until it ended."""
    schema = {"name": "review", "schema": record(REVIEW), "strict": True}
    text = f"Write a review, as JSON, of a book about a {words(seed, 3)}."
    stream = server.send(
        [user(text)], None, max_tokens=600, logit_bias=None, stream=None,
        response_format={"type": "json_schema", "json_schema": schema},
    )  # fmt: skip
    server.wait(lambda: bool(stream.ended_at))
    answer = stream.answer()
    check_review(answer.texts[0])
    return answer.usage["completion_tokens"], stream.duration_s


def check_review(text: str) -> None:
    """Raises Unmeasurable if the text clearly ignores the schema."""
    try:
        review = json.loads(text)
    except ValueError:
        raise Unmeasurable(f"not JSON: {text[:80]}") from None
    if set(review) != set(REVIEW) or len(review["tags"]) != 6:
        raise Unmeasurable(f"does not follow the schema: {text[:80]}")
