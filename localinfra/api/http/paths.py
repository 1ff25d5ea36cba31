"""Paths as clients spell them → this server's spelling, and advice for a 404.

Clients configure base URLs with and without /v1, with an extra slash, or with the API's path
twice. Paths are rewritten once, before anything depends on them.
"""

import difflib
import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from localinfra.logs import shown

SLASHES = re.compile("/{2,}")
# Ends of base URLs: ours, those of hosted services and gateways, and mixtures.
PREFIXED = re.compile(
    r"(?P<base>(?:/(?:v1|v2|openai|api|anthropic|inference-api))*)"
    r"/(?P<name>chat/completions|chats|completions|embeddings|embed|engines|images/generations|"
    r"images/edits|messages|models|requests|rerank|reranking|responses|inference|tokenize|detokenize|"
    r"tokenizer_info|health|metrics|openapi\.json)(?P<rest>/.*)?",
    re.DOTALL,
)
# Ollama's routes, below what its clients may have as base URL: OpenAI's, or that of a gateway.
OLLAMA_ROUTE = re.compile(
    r"(?:/(?:v1|api|ollama))*"
    r"(?P<route>/api/(?:chat|generate|tags|show|embed|embeddings|ps|pull|delete|version))"
)
INFERENCE_TWICE = re.compile("^/v1/inference(?:/v1/inference)+(?=/)")
KEPT_BASES = {"/v1", "/v1/openai", "/inference-api/openai/v1"}  # these have routes of their own
ONLY_AT_ROOT = {"tokenizer_info", "health", "metrics", "openapi.json"}
AT_ROOT = {"tokenize", "detokenize"} | ONLY_AT_ROOT
COHERES = {"rerank", "embed"}  # in /v1 and /v2
OLLAMAS = {"embed", "embeddings"}  # below /api
# Routes that only those ask for who know them: aliases of those below /v1, Ollama's, the page's.
SECOND_NAMES = ("/v1/openai/", "/inference-api/", "/api/", "/v1/chats")

AZURES = (
    "That is Azure's form of the API: use an OpenAI client with the base URL {base}/v1 and the "
    "model in the body."
)
BATCHES = "Batches are not supported: send requests concurrently, they are batched on the model."
OLLAMAS_MODELS = (
    "Models are not made, copied or pushed here: /api/pull fetches one, and models.toml gives it "
    "other names and settings."
)
# APIs of other servers that this one lacks, by path prefix.
NOT_SERVED = {
    "/api": "That is Ollama's API, which this server has not all of; ollama_api under [server] of "
    "models.toml turns it on and off. OpenAI's is at {base}/v1, chat at /v1/chat/completions.",
    "/api/create": OLLAMAS_MODELS,
    "/api/copy": OLLAMAS_MODELS,
    "/api/push": OLLAMAS_MODELS,
    "/api/blobs": OLLAMAS_MODELS,
    "/v2/chat": "Cohere's chat is not supported: use OpenAI's, /v1/chat/completions.",
    "/v1/audio": "Speech and transcription are not supported.",
    "/v1/moderations": "Moderation is not supported.",
    "/v1/realtime": "The realtime API is not supported: use /v1/responses or /v1/chat/completions.",
    "/v1/files": "Files are not stored here: send their contents with the request.",
    "/v1/messages/batches": BATCHES,
    "/v1/batches": BATCHES,
    "/v1/batch": BATCHES,
    "/v1/assistants": "Assistants are not supported: use /v1/responses.",
    "/v1/threads": "Assistants are not supported: use /v1/responses.",
    "/v1/conversations": "Conversations are not stored here: use `previous_response_id` of "
    "/v1/responses.",
    "/v1/fine_tuning": "Fine-tuning is not supported.",
    "/v1/vector_stores": "Vector stores are not supported: use /v1/embeddings.",
    "/v1/images/variations": "Variations are not supported: use /v1/images/edits.",
    "/v1/videos": "Videos are not supported.",
    "/v1/complete": "Use /v1/messages or /v1/completions.",
    "/v1/classify": "Classification is not supported: use /v1/rerank or /v1/embeddings.",
    "/v1beta": "Google's API is not supported: use /v1/chat/completions.",
    "/version": "The version is in /health.",
    "/openai/deployments": AZURES,
    "/v1/deployments": AZURES,
    "/deployments": AZURES,
    "/props": "That is llama.cpp's own API: use /v1/models and /health.",
    "/slots": "That is llama.cpp's own API: use /metrics.",
    "/completion": "That is llama.cpp's own API: use /v1/completions.",
    "/generate": "Use /v1/completions or /v1/chat/completions.",
    "/embed": "Use /v1/embeddings.",
}
PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
EXAMPLES = {"id": "MODEL", "name": "NAME"}


def canonical(path: str) -> str:
    """The path without double and trailing slashes, with one base and the route's main name."""
    path = SLASHES.sub("/", path).rstrip("/") or "/"
    path = INFERENCE_TWICE.sub("/v1/inference", path)
    if ollamas := OLLAMA_ROUTE.fullmatch(path):
        return ollamas["route"]
    found = PREFIXED.fullmatch(path)
    if found is None:
        return path
    name = {"reranking": "rerank"}.get(found["name"], found["name"])
    base = base_for(found["base"], name)
    return path if base is None else f"{base}/{name}{found['rest'] or ''}"


def base_for(given: str, name: str) -> str | None:
    """The base of the route `name` for a client that asks for it below `given`. None if that path
    belongs to another API."""
    segments = given.split("/")[1:]
    version = next((part for part in reversed(segments) if part in ("v1", "v2")), "")
    if name in ONLY_AT_ROOT or (name in AT_ROOT and not given):
        return ""
    if name in OLLAMAS and segments[-1:] == ["api"]:
        return None
    if name in COHERES and version == "v2":
        return "/v2"
    if version == "v2" or (name == "embed" and not version):
        return None
    if name == "messages":
        return "/anthropic/v1" if "anthropic" in segments else "/v1"
    return given if given in KEPT_BASES and name not in ("embed", "inference") else "/v1"


class CanonicalPaths:
    """Outermost ASGI middleware, so that all others and the routes see one spelling. `raw_path`
    stays as the client sent it."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = canonical(scope["path"])
        await self.app(scope, receive, send)


def advice(path: str, routes: Iterable[str], base: str) -> str:
    """What to use in place of an unknown path. `routes` may have parameters; `base` is this
    server's URL."""
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
    """A route as a user would type it: `/v1/models/{id:path}` → `/v1/models/MODEL`."""
    named = EXAMPLES | ({"id": "ID"} if "/responses/" in route or "/chats/" in route else {})
    return PARAMETER.sub(lambda match: named.get(match[1], match[1].upper()), route)


def not_found(path: str, routes: Iterable[str], base: str) -> str:
    return f"There is no {shown(path)} here. {advice(path, routes, base)}"
