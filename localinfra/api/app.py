"""The ASGI application: routes, middleware and error handlers as three lists."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp

from localinfra import garbage
from localinfra.api.anthropic.messages import count_message_tokens, create_message
from localinfra.api.chats import delete_chat, delete_chats, get_chat, list_chats, put_chat
from localinfra.api.cohere import create_cohere_embeddings
from localinfra.api.deepinfra.inference import infer
from localinfra.api.docs import DOCS_ROUTES
from localinfra.api.fetched import FetchedPictures
from localinfra.api.http.arriving import Arriving
from localinfra.api.http.background import BackgroundAnswers
from localinfra.api.http.errors import EXCEPTION_HANDLERS
from localinfra.api.http.guard import IMAGE_FILES, PAGE_FILES, Access, Guard
from localinfra.api.http.leasing import Leasing
from localinfra.api.http.leaving import Leaving
from localinfra.api.http.limiting import Limiting
from localinfra.api.http.paths import CanonicalPaths
from localinfra.api.http.running import Running
from localinfra.api.http.state import AppState
from localinfra.api.http.vouched import Vouched
from localinfra.api.metrics import RequestMetrics, get_metrics
from localinfra.api.ollama.chat import create_ollama_chat
from localinfra.api.ollama.embed import create_old_ollama_embedding, create_ollama_embeddings
from localinfra.api.ollama.generate import create_ollama_text
from localinfra.api.ollama.managing import delete_ollama_model, pull_ollama_model
from localinfra.api.ollama.models import (
    answering_probes,
    get_ollama_version,
    list_ollama_models,
    list_running_models,
)
from localinfra.api.ollama.show import show_ollama_model
from localinfra.api.openai.chat import create_chat_completion, create_engine_chat_completion
from localinfra.api.openai.completions import create_completion, create_engine_completion
from localinfra.api.openai.embeddings import create_embeddings, create_engine_embeddings
from localinfra.api.openai.image_edits import create_edits
from localinfra.api.openai.image_files import ImageFiles, get_image_file
from localinfra.api.openai.images import create_images
from localinfra.api.openai.managing import delete_model, pull_model, reload_models
from localinfra.api.openai.models import get_model, list_models, load_model, unload_model
from localinfra.api.openai.responses.handlers import (
    compact_conversation,
    count_input_tokens,
    create_response,
)
from localinfra.api.openai.responses.retrieving import (
    cancel_response,
    delete_response,
    get_response,
    list_input_items,
)
from localinfra.api.openai.responses.store import ResponseStore
from localinfra.api.page import get_index, get_page_file
from localinfra.api.probes import get_health
from localinfra.api.requests import cancel_request, follow_request, list_requests
from localinfra.api.rerank import create_ranking
from localinfra.api.tokens import create_tokens, describe_tokenizer, join_tokens
from localinfra.conversations.database import default_path
from localinfra.conversations.store import ChatStore
from localinfra.costs import Ledger
from localinfra.keys.holders import Holders
from localinfra.runtime import Runtime

# Base URLs in use: ours and OpenAI's, then those of hosted services whose clients we serve.
PREFIXES = ("/v1", "/v1/openai", "/inference-api/openai/v1")

OPENAI_ROUTES = [
    ("/chat/completions", create_chat_completion, "POST"),
    ("/completions", create_completion, "POST"),
    ("/engines/{id:path}/chat/completions", create_engine_chat_completion, "POST"),
    ("/engines/{id:path}/completions", create_engine_completion, "POST"),
    ("/embeddings", create_embeddings, "POST"),
    ("/engines/{id:path}/embeddings", create_engine_embeddings, "POST"),
    ("/rerank", create_ranking, "POST"),
    ("/responses", create_response, "POST"),
    ("/responses/compact", compact_conversation, "POST"),
    ("/responses/input_tokens", count_input_tokens, "POST"),
    ("/responses/{id}", get_response, "GET"),
    ("/responses/{id}", delete_response, "DELETE"),
    ("/responses/{id}/cancel", cancel_response, "POST"),
    ("/responses/{id}/input_items", list_input_items, "GET"),
    ("/images/generations", create_images, "POST"),
    ("/images/edits", create_edits, "POST"),
    ("/tokenize", create_tokens, "POST"),
    ("/detokenize", join_tokens, "POST"),
    ("/models", list_models, "GET"),
    ("/models/pull", pull_model, "POST"),
    ("/models/reload", reload_models, "POST"),
    ("/models/{id:path}/load", load_model, "POST"),
    ("/models/{id:path}/unload", unload_model, "POST"),
    ("/models/{id:path}", get_model, "GET"),
    ("/models/{id:path}", delete_model, "DELETE"),
    ("/requests", list_requests, "GET"),
    ("/requests/{id}", cancel_request, "DELETE"),
    ("/requests/{id}/events", follow_request, "GET"),
    ("/chats", list_chats, "GET"),
    ("/chats", delete_chats, "DELETE"),
    ("/chats/{id}", get_chat, "GET"),
    ("/chats/{id}", put_chat, "PUT"),
    ("/chats/{id}", delete_chat, "DELETE"),
]

# For Anthropic's clients, and for a hosted service that puts Anthropic's API under its own path.
ANTHROPIC_PREFIXES = ("/v1", "/anthropic/v1")

ANTHROPIC_ROUTES = [
    ("/messages", create_message),
    ("/messages/count_tokens", count_message_tokens),
]

OLLAMA_ROUTES = [
    ("/api/chat", create_ollama_chat, "POST"),
    ("/api/generate", create_ollama_text, "POST"),
    ("/api/embed", create_ollama_embeddings, "POST"),
    ("/api/embeddings", create_old_ollama_embedding, "POST"),
    ("/api/tags", list_ollama_models, "GET"),
    ("/api/show", show_ollama_model, "POST"),
    ("/api/ps", list_running_models, "GET"),
    ("/api/pull", pull_ollama_model, "POST"),
    ("/api/delete", delete_ollama_model, "DELETE"),
    ("/api/version", get_ollama_version, "GET"),
]


def routes(*, has_ollama: bool) -> list[Route]:
    return [
        Route("/", answering_probes(get_index) if has_ollama else get_index),
        Route(PAGE_FILES + "/{version}/{path:path}", get_page_file, include_in_schema=False),
        Route("/health", get_health),
        Route("/metrics", get_metrics),
        *DOCS_ROUTES,
        Route("/v1/inference/{id:path}", infer, methods=["POST"]),
        Route("/tokenize", create_tokens, methods=["POST"]),  # at the root, as in vLLM
        Route("/detokenize", join_tokens, methods=["POST"]),
        Route("/tokenizer_info", describe_tokenizer),
        Route(IMAGE_FILES + "/{name}", get_image_file),
        *(
            Route(prefix + path, handler, methods=[method])
            for prefix in PREFIXES
            for path, handler, method in OPENAI_ROUTES
        ),
        Route("/v2/rerank", create_ranking, methods=["POST"]),  # Cohere's newer client
        Route("/v1/embed", create_cohere_embeddings, methods=["POST"]),
        Route("/v2/embed", create_cohere_embeddings, methods=["POST"]),
        *(
            Route(prefix + path, handler, methods=["POST"])
            for prefix in ANTHROPIC_PREFIXES
            for path, handler in ANTHROPIC_ROUTES
        ),
        *(
            Route(path, handler, methods=[method])
            for path, handler, method in OLLAMA_ROUTES
            if has_ollama
        ),
    ]


def create_app(
    runtime: Runtime,
    ledger: Ledger | None = None,
    holders: Holders | None = None,
    *,
    is_vouched_for: bool = False,
) -> Starlette:
    """The application over a runtime; its lifespan starts loading the models and closes them.

    Usage goes to the ledger if there is one, else to the metrics only. `holders`: of named keys,
    which have been read. `is_vouched_for`: whoever calls it has checked the requests, as `Guard`
    does, and set their `RequestState`."""
    ledger = ledger or Ledger()
    images, access, running = ImageFiles(), Access(holders=holders), Running()

    def detached(work: ASGIApp) -> ASGIApp:
        """What work in the background has around it."""
        return RequestMetrics(Limiting(Leasing(Leaving(work, running), runtime)), state.metrics)

    runtime.follow(images.apply)
    runtime.follow(access.apply)
    backgrounds = BackgroundAnswers(detached)
    runtime.follow(backgrounds.apply)
    chats = ChatStore(default_path())
    stores = (images, ResponseStore(), FetchedPictures(), running, backgrounds, chats)
    state = AppState(runtime, ledger, *stores)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        runtime.start()
        async with ledger.kept():
            with garbage.trimmed():
                yield
            await runtime.close()
            await backgrounds.close()
            await chats.close()
            state.threads.close()

    app = Starlette(
        routes=routes(has_ollama=runtime.settings.ollama_api),
        middleware=[
            Middleware(CanonicalPaths),
            Middleware(RequestMetrics, metrics=state.metrics),
            Middleware(Arriving),
            Middleware(Vouched) if is_vouched_for else Middleware(Guard, access=access),
            Middleware(Limiting),
            Middleware(Leasing, runtime=runtime),
            Middleware(Leaving, running=running),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    state.attach(app)
    return app
