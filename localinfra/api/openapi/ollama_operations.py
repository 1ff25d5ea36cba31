"""The rows of Ollama's routes."""

from localinfra.api.ollama import chat, embed, generate, managing, models, show
from localinfra.api.openapi import examples
from localinfra.api.openapi.operation import LINES, TRUNCATED, Handler, Operation

OLLAMA_OPERATIONS: dict[Handler, Operation] = {
    chat.create_ollama_chat: Operation(
        tag="Ollama",
        body=(chat.ChatFields,),
        examples=examples.OLLAMA_CHAT,
        answer=(chat.ChatReply,),
        events=(chat.ChatReply,),
        stream_type=LINES,
        uses_model=True,
    ),
    generate.create_ollama_text: Operation(
        tag="Ollama",
        body=(generate.GenerateFields,),
        examples=examples.OLLAMA_TEXT,
        answer=(generate.GenerateReply,),
        events=(generate.GenerateReply,),
        stream_type=LINES,
        uses_model=True,
    ),
    embed.create_ollama_embeddings: Operation(
        tag="Ollama",
        body=(embed.OllamaEmbedFields,),
        examples=examples.OLLAMA_EMBED,
        answer=(embed.OllamaEmbeddings,),
        headers=TRUNCATED,
        uses_model=True,
    ),
    embed.create_old_ollama_embedding: Operation(
        tag="Ollama",
        body=(embed.OldEmbedFields,),
        examples=examples.OLLAMA_OLD_EMBED,
        answer=(embed.OldEmbedding,),
        headers=TRUNCATED,
        uses_model=True,
        is_old=True,
    ),
    models.list_ollama_models: Operation(tag="Ollama", answer=(models.ListedModels,)),
    models.list_running_models: Operation(tag="Ollama", answer=(models.RunningModels,)),
    show.show_ollama_model: Operation(
        tag="Ollama",
        body=(managing.ManagingFields,),
        examples=examples.OLLAMA_SHOW,
        answer=(show.ShownModel,),
        statuses=(404,),
    ),
    managing.pull_ollama_model: Operation(
        tag="Ollama",
        body=(managing.OllamaPullFields,),
        examples=examples.OLLAMA_PULL,
        answer=(managing.OllamaPullLine,),
        events=(managing.OllamaPullLine,),
        stream_type=LINES,
        statuses=(404, 409, 502, 507),
    ),
    managing.delete_ollama_model: Operation(
        tag="Ollama",
        body=(managing.ManagingFields,),
        examples=examples.OLLAMA_DELETE,
        statuses=(404,),
    ),
    models.get_ollama_version: Operation(tag="Ollama", answer=(models.OllamaVersion,)),
}
