"""Structs → JSON schemas, with the comments beside their fields as descriptions.

msgspec makes the schemas. This adds what it does not know: what a `msgspec.Raw` holds, and that an
answer always has the fields that have defaults.
"""

import inspect as python
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, inspect

from localinfra.api.http.held import HELD, REFERENCE
from localinfra.comments import field_comments

Schema: TypeAlias = dict[str, Any]
Struct: TypeAlias = type[msgspec.Struct]


def reference(kind: Struct) -> Schema:
    return {"$ref": REFERENCE.format(name=kind.__name__)}


def one_of(kinds: Iterable[Struct]) -> Schema:
    references = [reference(kind) for kind in kinds]
    return references[0] if len(references) == 1 else {"anyOf": references}


def component_schemas(asked: Iterable[Struct], answered: Iterable[Struct]) -> dict[str, Schema]:
    """The schemas of all structs in request bodies and answers, by name."""
    in_bodies, in_answers = structs_in(asked), structs_in(answered)
    kinds = [*in_bodies, *(kind for kind in in_answers if kind not in in_bodies)]
    _, schemas = msgspec.json.schema_components(kinds, ref_template=REFERENCE)
    for kind in kinds:
        schema = schemas[kind.__name__]
        describe(schema, kind)
        if kind not in in_bodies:
            schema["required"] = always_sent(kind)
    return dict(sorted(schemas.items()))


def structs_in(kinds: Iterable[Struct]) -> list[Struct]:
    """These structs and all that they contain, each once."""
    found: dict[Struct, None] = {}

    def visit(info: inspect.Type) -> None:
        if isinstance(info, inspect.StructType):
            if info.cls in found:
                return
            found[info.cls] = None
        elif isinstance(info, inspect.Metadata):
            for held in (info.extra or {}).get(HELD, ()):
                if held not in found:
                    visit(inspect.type_info(held))
        for inner in inside(info):
            visit(inner)

    for info in inspect.multi_type_info(kinds):  # at once: reading annotations is slow
        visit(info)
    return list(found)


def inside(info: inspect.Type) -> Iterator[inspect.Type]:
    """The types that a type consists of."""
    match info:
        case inspect.Metadata():
            yield info.type
        case inspect.StructType():
            yield from (field.type for field in info.fields)
        case inspect.ListType() | inspect.VarTupleType():
            yield info.item_type
        case inspect.DictType():
            yield info.value_type
        case inspect.UnionType():
            yield from info.types


def describe(schema: Schema, kind: Struct) -> None:
    """Adds what docstring and comments say, and drops what says nothing."""
    del schema["title"]  # the component's name
    schema.pop("description", None)
    if text := docstring(kind):
        schema["description"] = text
    properties = schema["properties"]
    required = {name: properties[name] for name in schema["required"]}
    schema["properties"] = required | properties  # those first
    comments = field_comments(kind)
    for field in msgspec.structs.fields(kind):
        place = properties[field.encode_name]
        if place.get("type") == "array":
            place.setdefault("items", {})  # else generators of clients refuse it
        if comment := comments.get(field.name):
            place.setdefault("description", comment)
        if place.get("default", UNSET) is None:  # as good as absent
            del place["default"]


def always_sent(kind: Struct) -> list[str]:
    """The fields that JSON of the struct always has."""
    config = kind.__struct_config__
    tag = [config.tag_field] if config.tag_field else []
    return tag + [
        field.encode_name
        for field in msgspec.structs.fields(kind)
        if field.required or not (config.omit_defaults or field.default is UNSET)
    ]


def docstring(owner: object) -> str:
    """Its paragraphs, each in one line; of a class, its own only."""
    doc = vars(owner).get("__doc__") if isinstance(owner, type) else python.getdoc(owner)
    paragraphs = python.cleandoc(doc or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
