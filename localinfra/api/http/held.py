"""What JSON a `msgspec.Raw` field holds, for the OpenAPI document: its type says only that it is
JSON, since it is decoded later or was encoded before."""

import msgspec
from msgspec import Meta

HELD = "held"  # the structs, in the field's `extra`
REFERENCE = "#/components/schemas/{name}"


def holding(*kinds: type[msgspec.Struct], is_list: bool = False) -> Meta:
    """For a field's annotation: it holds one of these structs, or a list of them."""
    references = [{"$ref": REFERENCE.format(name=kind.__name__)} for kind in kinds]
    schema = references[0] if len(kinds) == 1 else {"anyOf": references}
    return Meta(
        extra={HELD: kinds},
        extra_json_schema={"type": "array", "items": schema} if is_list else schema,
    )
