"""Requests to try, by what they show. The tests send them all to real models.

They name models of the shipped models.toml, and a well-known reranker.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

Examples: TypeAlias = Mapping[str, Mapping[str, Any]]

CHAT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"
RERANKER = "BAAI/bge-reranker-v2-m3"
PAINTER = "black-forest-labs/FLUX.1-schnell"
MODEL_KINDS = {
    CHAT_MODEL: "text",
    EMBEDDER: "embedding",
    RERANKER: "rerank",
    PAINTER: "image",
}
PULLED = "Qwen/Qwen3-0.6B-GGUF:Q8_0"

RIVERS = {"role": "user", "content": "Name three rivers."}
BEGUN = "The three longest rivers are"
TEXTS = ["A river ends in the sea.", "Bread needs flour."]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 40}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"name": "get_weather", "description": "The weather in a city."}
PROMPT = "a lighthouse in the fog"
# A red square of 64 pixels.
PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAIAAAAlC+aJAAAAT0lEQVR42u3PQQkAAAgEsItz/"
    "VMYywi+hcEKLNO+FgEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQGBywLvDoEAVSaz4wA"
    "AAABJRU5ErkJggg=="
)

CHAT: Examples = {
    "An answer": {"model": CHAT_MODEL, "messages": [RIVERS], "max_tokens": 60},
    "A stream": {"model": CHAT_MODEL, "messages": [RIVERS], "max_tokens": 60, "stream": True},
    "JSON by a schema": {
        "model": CHAT_MODEL,
        "messages": [{"role": "user", "content": "Which city has the Eiffel tower?"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}},
    },
    "A call of a tool": {
        "model": CHAT_MODEL,
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [{"type": "function", "function": {**WEATHER, "parameters": CITY}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    },
    "Token probabilities": {
        "model": CHAT_MODEL,
        "messages": [RIVERS],
        "max_tokens": 5,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 3,
    },
}
CHAT_IN_PATH: Examples = {"An answer": {"messages": [RIVERS], "max_tokens": 60}}
COMPLETIONS: Examples = {
    "A text": {"model": CHAT_MODEL, "prompt": BEGUN, "max_tokens": 30},
    "A stream": {"model": CHAT_MODEL, "prompt": BEGUN, "max_tokens": 30, "stream": True},
    "The scores of a text": {
        "model": CHAT_MODEL,
        "prompt": BEGUN,
        "max_tokens": 0,
        "echo": True,
        "logprobs": 2,
    },
}
COMPLETIONS_IN_PATH: Examples = {"A text": {"prompt": BEGUN, "max_tokens": 30}}
MESSAGES: Examples = {
    "An answer": {"model": CHAT_MODEL, "max_tokens": 60, "messages": [RIVERS]},
    "A stream": {"model": CHAT_MODEL, "max_tokens": 60, "messages": [RIVERS], "stream": True},
    "A call of a tool": {
        "model": CHAT_MODEL,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [{**WEATHER, "input_schema": CITY}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    },
}
MESSAGE_TOKENS: Examples = {"A conversation": {"model": CHAT_MODEL, "messages": [RIVERS]}}
RESPONSES: Examples = {
    "An answer": {"model": CHAT_MODEL, "input": "Name three rivers.", "max_output_tokens": 60},
    "A stream": {
        "model": CHAT_MODEL,
        "input": "Name three rivers.",
        "max_output_tokens": 60,
        "stream": True,
    },
    "In the background": {
        "model": CHAT_MODEL,
        "input": "Name three rivers.",
        "max_output_tokens": 60,
        "background": True,
    },
    "A call of a tool": {
        "model": CHAT_MODEL,
        "input": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [{"type": "function", **WEATHER, "parameters": CITY}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    },
}
COMPACT: Examples = {
    "A conversation": {
        "model": CHAT_MODEL,
        "input": [RIVERS, {"role": "assistant", "content": "The Nile, the Amazon, the Yangtze."}],
        "max_output_tokens": 60,
    }
}
INPUT_TOKENS: Examples = {"A conversation": {"model": CHAT_MODEL, "input": "Name three rivers."}}
TOKENIZE: Examples = {
    "A text": {"model": CHAT_MODEL, "prompt": "Hello!", "return_token_strs": True},
    "A conversation": {"model": CHAT_MODEL, "messages": [RIVERS]},
}
DETOKENIZE: Examples = {"Two tokens": {"model": CHAT_MODEL, "tokens": [72, 105]}}
EMBEDDINGS: Examples = {
    "Two texts": {"model": EMBEDDER, "input": TEXTS},
    "A short vector in base64": {
        "model": EMBEDDER,
        "input": TEXTS[0],
        "dimensions": 64,
        "encoding_format": "base64",
    },
}
EMBEDDINGS_IN_PATH: Examples = {"Two texts": {"input": TEXTS}}
COHERE: Examples = {
    "Two texts": {
        "model": EMBEDDER,
        "texts": TEXTS,
        "input_type": "search_document",
        "embedding_types": ["float"],
    },
    "A plain list": {"model": EMBEDDER, "texts": TEXTS, "input_type": "search_query"},
}
RERANK: Examples = {
    "Two documents": {
        "model": RERANKER,
        "query": "Where does a river end?",
        "documents": TEXTS,
        "return_documents": True,
    }
}
IMAGES: Examples = {
    "An image": {"model": PAINTER, "prompt": PROMPT, "size": "512x512", "seed": 7},
    "A stream with previews": {
        "model": PAINTER,
        "prompt": PROMPT,
        "size": "512x512",
        "stream": True,
        "partial_images": 2,
        "progress": True,
    },
}
EDITS: Examples = {
    "An image": {"model": PAINTER, "prompt": PROMPT, "image": PICTURE, "strength": 0.9}
}
NATIVE: Examples = {
    "A text": {"input": BEGUN, "max_new_tokens": 30},
    "A streamed text": {"input": BEGUN, "max_new_tokens": 30, "stream": True},
    "Vectors": {"inputs": TEXTS},
    "Scores": {"query": "Where does a river end?", "documents": TEXTS},
    "An image": {"prompt": PROMPT, "width": 512, "height": 512},
    "An image in Cog's form": {"input": {"prompt": PROMPT, "width": 512, "height": 512}},
}
NATIVE_MODELS = {
    "A text": CHAT_MODEL,
    "A streamed text": CHAT_MODEL,
    "Vectors": EMBEDDER,
    "Scores": RERANKER,
    "An image": PAINTER,
    "An image in Cog's form": PAINTER,
}
PULL: Examples = {
    "A file of a repository": {"model": PULLED},
    "With progress": {"model": PULLED, "stream": True},
}
CHAT_IDS = {"A conversation": "rivers"}
CHATS: Examples = {
    "A conversation": {
        "title": "Rivers",
        "data": {"turns": [{"role": "user", "content": "Name three rivers."}]},
    }
}
OLLAMA_CHAT: Examples = {
    "A stream": {"model": CHAT_MODEL, "messages": [RIVERS], "options": {"num_predict": 60}},
    "An answer": {
        "model": CHAT_MODEL,
        "messages": [RIVERS],
        "options": {"num_predict": 60},
        "stream": False,
    },
    "A call of a tool": {
        "model": CHAT_MODEL,
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [{"type": "function", "function": {**WEATHER, "parameters": CITY}}],
        "options": {"num_predict": 60},
    },
}
OLLAMA_TEXT: Examples = {
    "A stream": {
        "model": CHAT_MODEL,
        "prompt": "Name three rivers.",
        "options": {"num_predict": 60},
    },
    "A text that goes on": {
        "model": CHAT_MODEL,
        "prompt": BEGUN,
        "raw": True,
        "options": {"num_predict": 30},
        "stream": False,
    },
    "Token probabilities": {
        "model": CHAT_MODEL,
        "prompt": "Name three rivers.",
        "options": {"num_predict": 5, "temperature": 0},
        "logprobs": True,
        "top_logprobs": 3,
        "stream": False,
    },
    "A model to load": {"model": CHAT_MODEL},
}
OLLAMA_EMBED: Examples = {"Two texts": {"model": EMBEDDER, "input": TEXTS}}
OLLAMA_OLD_EMBED: Examples = {"A text": {"model": EMBEDDER, "prompt": TEXTS[0]}}
OLLAMA_SHOW: Examples = {"A chat model": {"model": CHAT_MODEL}, "An embedder": {"model": EMBEDDER}}
OLLAMA_PULL: Examples = {
    "With progress": {"model": f"hf.co/{PULLED}"},
    "Without": {"model": f"hf.co/{PULLED}", "stream": False},
}
OLLAMA_DELETE: Examples = {"A pulled model": {"model": PULLED}}
