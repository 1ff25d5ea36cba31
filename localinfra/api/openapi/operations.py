"""Every route's row: what it takes and what it answers. Each handler has one."""

from typing import Annotated, Literal

from msgspec import Meta

from localinfra.api import chats, cohere, metrics, page, probes, requests, rerank, tokens
from localinfra.api.anthropic import input as anthropic_input
from localinfra.api.anthropic import messages
from localinfra.api.anthropic import output as blocks
from localinfra.api.deepinfra import encoders, inference
from localinfra.api.deepinfra import images as native_images
from localinfra.api.deepinfra import text as native_text
from localinfra.api.openai import (
    chat,
    completions,
    embeddings,
    image_edits,
    image_files,
    images,
    managing,
    models,
)
from localinfra.api.openai.responses import handlers, response, retrieving
from localinfra.api.openai.responses import output as items
from localinfra.api.openai.responses.request import ResponsesRequest
from localinfra.api.openapi import examples
from localinfra.api.openapi.ollama_operations import OLLAMA_OPERATIONS
from localinfra.api.openapi.operation import TRUNCATED, Handler, Operation, Query
from localinfra.conversations.store import ChatHead, KeptChat
from localinfra.origin import Changes

TAGS = {
    "Chat": "Conversations, in the forms of OpenAI and Anthropic.",
    "Text": "Texts that go on, and their tokens.",
    "Embeddings": "Vectors of texts, and rankings.",
    "Images": "Images from prompts, and from other images.",
    "Native": "Models of any kind in DeepInfra's form.",
    "Ollama": "Ollama's API, for applications that know only that.",
    "Models": "What is served. Changing that needs a key, or a client on the server's machine.",
    "Conversations": "Kept by the server for its page, for each key its own, with `keep_chats`.",
    "Server": "Whether it is well, and what it does.",
}

IN_PATH = {"id": {"The chat model": examples.CHAT_MODEL}}
MESSAGE_EVENTS = (
    blocks.MessageStart,
    blocks.ContentBlockStart,
    blocks.ContentBlockDelta,
    blocks.ContentBlockStop,
    blocks.MessageDelta,
    blocks.MessageStop,
    blocks.Ping,
)
RESPONSE_EVENTS = (
    response.Created,
    response.Queued,
    response.InProgress,
    items.ItemAdded,
    items.PartAdded,
    items.ResponsesTextDelta,
    items.TextDone,
    items.ReasoningDelta,
    items.ReasoningDone,
    items.ArgumentsDelta,
    items.ArgumentsDone,
    items.PartDone,
    items.ItemDone,
    response.Completed,
    response.Incomplete,
    response.ResponseFailed,
)
AFTER = Query(
    Annotated[int, Meta(ge=0)],
    "the number of the last event that was read, from 0 on; default: from the beginning",
)
IMAGE_EVENTS = (images.ImageProgress, images.ImagePreview, images.ImageCompleted)

OPERATIONS: dict[Handler, Operation] = {
    chat.create_chat_completion: Operation(
        tag="Chat",
        body=(chat.ChatCompletionRequest,),
        examples=examples.CHAT,
        answer=(chat.ChatCompletion,),
        events=(chat.ChatCompletionChunk,),
        uses_model=True,
    ),
    chat.create_engine_chat_completion: Operation(
        tag="Chat",
        body=(chat.EngineChatCompletionRequest,),
        examples=examples.CHAT_IN_PATH,
        path=IN_PATH,
        answer=(chat.ChatCompletion,),
        events=(chat.ChatCompletionChunk,),
        uses_model=True,
        is_old=True,
    ),
    handlers.create_response: Operation(
        tag="Chat",
        body=(ResponsesRequest,),
        examples=examples.RESPONSES,
        answer=(response.Response,),
        events=RESPONSE_EVENTS,
        has_named_events=True,
        uses_model=True,
    ),
    handlers.compact_conversation: Operation(
        tag="Chat",
        body=(ResponsesRequest,),
        examples=examples.COMPACT,
        answer=(response.CompactedResponse,),
        uses_model=True,
    ),
    handlers.count_input_tokens: Operation(
        tag="Chat",
        body=(ResponsesRequest,),
        examples=examples.INPUT_TOKENS,
        answer=(response.InputTokens,),
        uses_model=True,
    ),
    retrieving.get_response: Operation(
        tag="Chat",
        query={
            "stream": Query(bool, "send its events, if it was created with background: true"),
            "starting_after": AFTER,
        },
        answer=(response.Response,),
        events=RESPONSE_EVENTS,
        has_named_events=True,
        headers=("x-localinfra-ignored",),
        statuses=(400,),
    ),
    retrieving.cancel_response: Operation(
        tag="Chat", answer=(response.Response,), headers=("x-localinfra-ignored",), statuses=(400,)
    ),
    retrieving.delete_response: Operation(tag="Chat", answer=(response.ResponseDeleted,)),
    retrieving.list_input_items: Operation(
        tag="Chat",
        query={
            "limit": Query(
                Annotated[int, Meta(ge=1, le=retrieving.MAX_ITEMS_PER_PAGE)],
                f"items of a page; default: {retrieving.ITEMS_PER_PAGE}",
            ),
            "order": Query(Literal["asc", "desc"], "desc, the default: the newest first"),
            "after": Query(str, "the id of the item before the first one"),
        },
        answer=(retrieving.ItemList,),
        statuses=(400,),
    ),
    messages.create_message: Operation(
        tag="Chat",
        body=(messages.MessageRequest,),
        examples=examples.MESSAGES,
        answer=(blocks.MessagesAnswer,),
        events=MESSAGE_EVENTS,
        has_named_events=True,
        uses_model=True,
    ),
    messages.count_message_tokens: Operation(
        tag="Chat",
        body=(anthropic_input.PromptFields,),
        examples=examples.MESSAGE_TOKENS,
        answer=(messages.TokenCount,),
        uses_model=True,
    ),
    completions.create_completion: Operation(
        tag="Text",
        body=(completions.CompletionRequest,),
        examples=examples.COMPLETIONS,
        answer=(completions.TextCompletion,),
        events=(completions.TextCompletion,),
        uses_model=True,
    ),
    completions.create_engine_completion: Operation(
        tag="Text",
        body=(completions.EngineCompletionRequest,),
        examples=examples.COMPLETIONS_IN_PATH,
        path=IN_PATH,
        answer=(completions.TextCompletion,),
        events=(completions.TextCompletion,),
        uses_model=True,
        is_old=True,
    ),
    tokens.create_tokens: Operation(
        tag="Text",
        body=(tokens.TokenizeRequest,),
        examples=examples.TOKENIZE,
        answer=(tokens.Tokenized,),
        uses_model=True,
    ),
    tokens.join_tokens: Operation(
        tag="Text",
        body=(tokens.DetokenizeRequest,),
        examples=examples.DETOKENIZE,
        answer=(tokens.Detokenized,),
        uses_model=True,
    ),
    tokens.describe_tokenizer: Operation(
        tag="Text",
        query={"model": Query(str, "may be left out if there is one text model only")},
        answer=(tokens.TokenizerDescription,),
        uses_model=True,
        statuses=(400,),
    ),
    embeddings.create_embeddings: Operation(
        tag="Embeddings",
        body=(embeddings.EmbeddingsRequest,),
        examples=examples.EMBEDDINGS,
        answer=(embeddings.EmbeddingsList,),
        headers=TRUNCATED,
        uses_model=True,
    ),
    embeddings.create_engine_embeddings: Operation(
        tag="Embeddings",
        body=(embeddings.EngineEmbeddingsRequest,),
        examples=examples.EMBEDDINGS_IN_PATH,
        path={"id": {"The embedder": examples.EMBEDDER}},
        answer=(embeddings.EmbeddingsList,),
        headers=TRUNCATED,
        uses_model=True,
        is_old=True,
    ),
    cohere.create_cohere_embeddings: Operation(
        tag="Embeddings",
        body=(cohere.EmbedRequest,),
        examples=examples.COHERE,
        answer=(cohere.CohereEmbeddings,),
        headers=TRUNCATED,
        uses_model=True,
    ),
    rerank.create_ranking: Operation(
        tag="Embeddings",
        body=(rerank.RerankRequest,),
        examples=examples.RERANK,
        answer=(rerank.Ranking,),
        headers=TRUNCATED,
        uses_model=True,
    ),
    images.create_images: Operation(
        tag="Images",
        body=(images.ImageFields,),
        examples=examples.IMAGES,
        answer=(images.ImagesAnswer,),
        events=IMAGE_EVENTS,
        headers=TRUNCATED,
        uses_model=True,
    ),
    image_edits.create_edits: Operation(
        tag="Images",
        body=(image_edits.EditFields,),
        files=("image", "mask"),
        examples=examples.EDITS,
        answer=(images.ImagesAnswer,),
        events=IMAGE_EVENTS,
        headers=TRUNCATED,
        uses_model=True,
    ),
    image_files.get_image_file: Operation(tag="Images", media_type="image/*", is_open=True),
    inference.infer: Operation(
        tag="Native",
        body=(
            native_text.TextBody,
            encoders.EmbeddingBody,
            encoders.RerankBody,
            native_images.ImageBody,
        ),
        files=("image", "images", "mask"),
        examples=examples.NATIVE,
        path={"id": examples.NATIVE_MODELS},
        answer=(
            native_text.TextResults,
            encoders.NativeEmbeddings,
            encoders.RerankScores,
            native_images.NativeImages,
            native_images.CogImages,
        ),
        events=(native_text.NativeTokenEvent,),
        headers=TRUNCATED,
        uses_model=True,
    ),
    models.list_models: Operation(
        tag="Models",
        query={"all": Query(bool, "also models without files; default: false")},
        answer=(models.ModelList,),
        statuses=(400,),
    ),
    models.get_model: Operation(tag="Models", path=IN_PATH, answer=(models.ModelCard,)),
    models.load_model: Operation(
        tag="Models", path=IN_PATH, answer=(models.ModelCard,), statuses=(429, 503)
    ),
    models.unload_model: Operation(tag="Models", path=IN_PATH, answer=(models.ModelCard,)),
    **OLLAMA_OPERATIONS,
    managing.pull_model: Operation(
        tag="Models",
        body=(managing.PullRequest,),
        examples=examples.PULL,
        answer=(managing.PullEvent,),
        events=(managing.PullEvent,),
        statuses=(404, 409, 502, 507),
    ),
    managing.delete_model: Operation(
        tag="Models",
        path={"id": {"A pulled model": examples.PULLED}},
        answer=(managing.Deleted,),
        statuses=(400,),
    ),
    managing.reload_models: Operation(tag="Models", answer=(Changes,), statuses=(400,)),
    chats.list_chats: Operation(
        tag="Conversations",
        query={
            "search": Query(str, "only those with these words, in their title or a turn"),
            "limit": Query(
                Annotated[int, Meta(ge=1, le=chats.MAX_PER_PAGE)],
                f"conversations of a page; default: {chats.PER_PAGE}",
            ),
            "after": Query(str, "the `next` of the page before"),
        },
        answer=(chats.ChatList,),
        statuses=(400, 429, 503),
    ),
    chats.put_chat: Operation(
        tag="Conversations",
        body=(chats.ChatBody,),
        examples=examples.CHATS,
        path={"id": examples.CHAT_IDS},
        answer=(ChatHead,),
        statuses=(404, 409, 503, 507),
    ),
    chats.get_chat: Operation(tag="Conversations", answer=(KeptChat,), statuses=(404, 429, 503)),
    chats.delete_chat: Operation(
        tag="Conversations", answer=(chats.ChatsDeleted,), statuses=(404, 429, 503)
    ),
    chats.delete_chats: Operation(
        tag="Conversations", answer=(chats.ChatsDeleted,), statuses=(404, 429, 503)
    ),
    probes.get_health: Operation(tag="Server", answer=(probes.ServerHealth,), is_open=True),
    metrics.get_metrics: Operation(tag="Server", media_type="text/plain"),
    requests.list_requests: Operation(tag="Server", answer=(requests.RunningList,)),
    requests.cancel_request: Operation(tag="Server", answer=(requests.RequestsCancelled,)),
    requests.follow_request: Operation(
        tag="Chat",
        query={"starting_after": AFTER},
        events=(chat.ChatCompletionChunk,),
        headers=("x-localinfra-ignored",),
        statuses=(400,),
    ),
    page.get_index: Operation(
        tag="Server", answer=(page.ServerName,), media_type="text/plain", is_open=True
    ),
}
