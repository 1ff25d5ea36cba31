"""What a request asks for, as far as that decides who answers it. Pure, any thread.

Whatever is wrong with a body is for the replica to say.
"""

import contextlib
import enum
import re
import sys
from collections.abc import Mapping
from urllib.parse import parse_qs

import msgspec

from localinfra.api.generation.usage import ANSWER_LIMITS, expected_tokens
from localinfra.api.http.body import FIELDS
from localinfra.api.http.weight import Weight
from localinfra.models.entries import ImageModelEntry, ModelEntry, TextModelEntry
from localinfra.scale.prefixes import Fields, PromptStart, prefix_of

BASES = re.compile(r"/v1/openai(?=/)|/inference-api/openai/v1(?=/)|/anthropic/v1(?=/)")
MODEL_IN_PATH = re.compile(
    r"/v1/(?:engines|inference|models)/(?P<model>.+?)"
    r"(?P<verb>/(?:chat/completions|completions|embeddings|load|unload))?"
)
NO_MODELS = {"/v1/models/pull", "/v1/models/reload", "/api/pull", "/api/show"}  # none is used
KEPT = re.compile(r"/v1/(?:responses|requests|images/files)/(?P<id>[^/]+)(?:/\w+)?")
NOT_KEPT = {"/v1/responses/compact", "/v1/responses/input_tokens"}
MODEL_PART = b'name="model"\r\n'
# After more lines of the part's head, and its value.
MODEL_IN_FORM = re.compile(rb"(?:[^\r\n]+\r\n){0,8}\r\n([^\r\n]{1,200})\r\n")
# A form of nothing but such heads would else take long.
MOST_MODEL_PARTS, MODEL_PART_BYTES = 8, 2048
# Routes whose prompts have prefixes worth keeping together.
PROMPTED = re.compile(
    r"/v1/(?:chat/completions|completions|messages|responses|inference/.+|"
    r"engines/.+/(?:chat/)?completions)|/api/(?:chat|generate)"
)
# Whose requests need not name a model: the server has one of this kind.
UNNAMED: Mapping[str, type[ModelEntry]] = {
    "/v1/images/generations": ImageModelEntry,
    "/v1/images/edits": ImageModelEntry,
    "/v1/tokenize": TextModelEntry,
    "/v1/detokenize": TextModelEntry,
    "/tokenize": TextModelEntry,
    "/detokenize": TextModelEntry,
    "/tokenizer_info": TextModelEntry,
}
MODEL_IN_QUERY = {"/tokenizer_info"}
# Without any of these fields, Ollama's clients ask for the model to be loaded or unloaded.
TO_LOAD = {"/api/generate": ("prompt", "suffix", "images"), "/api/chat": ("messages",)}
EMPTY = {b"", b'""', b"[]", b"null"}
MOST_REFERENCES = 64
REFERENCE = re.compile(rb'"item_reference"')

TEXT = msgspec.json.Decoder(str)


class Reach(enum.Enum):
    """How many replicas answer."""

    ONE = enum.auto()
    GROUP = enum.auto()  # all of the model's group
    GROUPS = enum.auto()  # one of each group
    ALL = enum.auto()


ANSWERED_BY_GROUPS = {"/health", "/v1/models", "/api/tags"}
ANSWERED_BY_ALL = {"/metrics", "/v1/requests", "/v1/models/reload", "/api/ps"}


class Asked(msgspec.Struct, frozen=True):
    reach: Reach = Reach.ONE
    model: str | None = None
    ids: tuple[str, ...] = ()  # of something that one replica keeps
    prefix: PromptStart = PromptStart()
    uses_model: bool = False  # its key's limits count it
    # Its model is of this kind. If it names none, the server's own one is meant.
    kind: type[ModelEntry] | None = None
    expected_tokens: int = 0


class Reference(msgspec.Struct):
    type: str = ""
    id: str = ""


class _Amounts(msgspec.Struct):
    """What says how many tokens an answer may have."""

    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    max_output_tokens: int | None = None
    max_new_tokens: int | None = None
    n: int | None = None


class _Generating(_Amounts):
    stream: bool = False


def asked_for(method: str, path: str, body: bytes, seed: str = "", query: bytes = b"") -> Asked:
    """`path` as `CanonicalPaths` writes it. `seed`: of the prefix, beside the model."""
    path = BASES.sub("/v1", path)
    if path in ANSWERED_BY_ALL:
        return Asked(Reach.ALL)
    if path in ANSWERED_BY_GROUPS and method == "GET":
        return Asked(Reach.GROUPS)
    if (kept := KEPT.fullmatch(path)) and path not in NOT_KEPT:
        return Asked(ids=(kept["id"],))
    in_path = None if path in NO_MODELS else MODEL_IN_PATH.fullmatch(path)
    model = in_path["model"] if in_path else None
    if in_path and in_path["verb"] in ("/load", "/unload"):
        return Asked(Reach.GROUP, model)
    kind = UNNAMED.get(path)
    if path in MODEL_IN_QUERY:
        model = parse_qs(query.decode("latin-1")).get("model", [None])[0]
    if method != "POST":
        return Asked(model=model, kind=kind)
    fields = fields_of(body)
    if not fields:
        model = model or model_in_form(body)
        return Asked(model=model, uses_model=model is not None or kind is not None, kind=kind)
    model = model or text(fields, "model") or text(fields, "name")
    if path in TO_LOAD and all(bytes(fields.get(one, b"")) in EMPTY for one in TO_LOAD[path]):
        return Asked(Reach.GROUP, model)
    is_prompted = PROMPTED.fullmatch(path) is not None
    return Asked(
        model=model,
        ids=tuple(references(fields)),
        prefix=prefix_of(fields, f"{seed}\0{model}") if is_prompted else PromptStart(),
        uses_model=path not in NO_MODELS,
        kind=kind,
        expected_tokens=likely_tokens(body, fields, generates=is_prompted),
    )


def fields_of(body: bytes) -> Fields:
    with contextlib.suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return FIELDS.decode(body)
    return {}


def text(fields: Fields, name: str) -> str | None:
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
        return TEXT.decode(fields[name]) if name in fields else None
    return None


def model_in_form(body: bytes) -> str | None:
    """Wherever it stands: clients may send it after their pictures."""
    at = -1
    for _ in range(MOST_MODEL_PARTS):
        at = body.find(MODEL_PART, at + 1)
        if at < 0:
            return None
        start = at + len(MODEL_PART)
        if found := MODEL_IN_FORM.match(body, start, start + MODEL_PART_BYTES):
            return found[1].decode(errors="replace")
    return None


def references(fields: Fields) -> list[str]:
    """Ids of stored responses and their items that the body goes on from."""
    previous = text(fields, "previous_response_id")
    if previous:
        return [previous]
    given = bytes(fields.get("input", b""))
    if not given.startswith(b"[") or not REFERENCE.search(given):
        return []
    with contextlib.suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        items = msgspec.json.decode(given, type=list[Reference])
        found = [item.id for item in items if item.type == "item_reference"]
        return found[:MOST_REFERENCES]
    return []


def likely_tokens(body: bytes, fields: Fields, *, generates: bool) -> int:
    """What is set aside of the key's tokens, as `Call` does it."""
    amounts: dict[str, int] = {}
    for name in (*ANSWER_LIMITS, "n"):
        with contextlib.suppress(msgspec.MsgspecError):
            if name in fields:
                amounts[name] = msgspec.json.decode(fields[name], type=int)
    weight = Weight(sys.maxsize, sys.maxsize)
    weight.add(body)
    weight.finish()
    kind = _Generating if generates else _Amounts
    return expected_tokens(len(body), kind(**amounts), weight.num_data)
