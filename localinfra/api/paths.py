"""Paths as clients spell them → the one this server knows, and what to say where there is none.

Base URLs are given with and without /v1, with a slash too many, or with the API's path twice.
Rewriting happens once, before anything is decided by the path.
"""

import difflib
import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from localinfra.logs import shown

SLASHES = re.compile("/{2,}")
DOUBLED = re.compile("^(/anthropic|/v1/openai|/inference-api/openai)?(?:/v1)+(?=/v1/)")
# At the root as below /v1: base URLs without /v1. /tokenize and /detokenize have routes there.
ROOT_NAMES = (
    "chat/completions",
    "completions",
    "embeddings",
    "engines",
    "images/generations",
    "images/edits",
    "messages",
    "models",
    "rerank",
    "reranking",
    "responses",
)
AT_ROOT = re.compile(f"/(?:{'|'.join(ROOT_NAMES)})(?:/.*)?", re.DOTALL)
OTHER_PREFIXES = re.compile("^/(?:openai|api|v1/openai)(?=/v1/)")  # of gateways, or mixed up
SECOND_NAMES = ("/v1/openai/", "/inference-api/")  # of routes below /v1
SYNONYMS = {"/v1/reranking": "/v1/rerank"}

# What other servers have and this one hasn't, by the beginning of its path.
NOT_SERVED = {
    "/api": "That is Ollama's API. Point an OpenAI client here instead, with the base URL "
    "{base}/v1; chat is at /v1/chat/completions.",
    "/v2/chat": "Cohere's chat is not served: use /v1/chat/completions, OpenAI's.",
    "/v1/audio": "Speech and transcription are not served.",
    "/v1/moderations": "Moderation is not served.",
    "/v1/realtime": "The realtime API is not served: use /v1/responses or /v1/chat/completions.",
    "/v1/files": "Files are not kept here: send contents with the request.",
    "/v1/messages/batches": "Batches are not served: send requests side by side, they share the "
    "model.",
    "/v1/batches": "Batches are not served: send requests side by side, they share the model.",
    "/v1/batch": "Batches are not served: send requests side by side, they share the model.",
    "/v1/assistants": "Assistants are not served: use /v1/responses.",
    "/v1/threads": "Assistants are not served: use /v1/responses.",
    "/v1/conversations": "Conversations are not kept here: use `previous_response_id` of "
    "/v1/responses.",
    "/v1/fine_tuning": "Fine-tuning is not served.",
    "/v1/vector_stores": "Vector stores are not served: use /v1/embeddings.",
    "/v1/images/variations": "Variations are not served: use /v1/images/edits.",
    "/v1/videos": "Videos are not served.",
    "/v1/complete": "Use /v1/messages, or /v1/completions.",
    "/v1/classify": "Classification is not served: use /v1/rerank or /v1/embeddings.",
    "/v1beta": "Google's API is not served: use /v1/chat/completions.",
    "/props": "That is llama.cpp's own API: use /v1/models and /health.",
    "/slots": "That is llama.cpp's own API: use /metrics.",
    "/completion": "That is llama.cpp's own API: use /v1/completions.",
    "/generate": "Use /v1/completions or /v1/chat/completions.",
    "/embed": "Use /v1/embeddings.",
}
PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
EXAMPLES = {"id": "MODEL", "name": "NAME"}


def canonical(path: str) -> str:
    """The path without doubled and trailing slashes, with one /v1, by its own name."""
    path = SLASHES.sub("/", path)
    path = path.rstrip("/") or "/"
    path = DOUBLED.sub(r"\1", OTHER_PREFIXES.sub("", path))
    if AT_ROOT.fullmatch(path):
        path = "/v1" + path
    return SYNONYMS.get(path, path)


class CanonicalPaths:
    """ASGI middleware, the outermost: what judges, counts or answers sees one spelling. `raw_path`
    stays as the client sent it."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = canonical(scope["path"])
        await self.app(scope, receive, send)


def advice(path: str, routes: Iterable[str], base: str) -> str:
    """What to do about a path that leads nowhere. `routes` may have parameters; `base` is this
    server's own URL."""
    known = [
        route
        for route in dict.fromkeys(example(route) for route in routes)
        if not route.startswith(SECOND_NAMES) or path.startswith(SECOND_NAMES)
    ]
    for begin in sorted(NOT_SERVED, key=len, reverse=True):
        if path == begin or path.startswith(begin + "/"):
            return NOT_SERVED[begin].format(base=base)
    for route in known:
        if path.startswith(route + "/") and canonical(path.removeprefix(route)) in known:
            return f"Set the base URL to {base}/v1: the client adds the rest, such as {route}."
    close = difflib.get_close_matches(path[:200].lower(), known, n=3, cutoff=0.55)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"OpenAI's routes are below {base}/v1, such as /v1/chat/completions and /v1/models."


def example(route: str) -> str:
    """A route as one would type it: `/v1/models/{id:path}` → `/v1/models/MODEL`."""
    named = EXAMPLES | ({"id": "ID"} if "/responses/" in route else {})
    return PARAMETER.sub(lambda match: named.get(match[1], match[1].upper()), route)


def not_found(path: str, routes: Iterable[str], base: str) -> str:
    return f"There is no {shown(path)} here. {advice(path, routes, base)}"
