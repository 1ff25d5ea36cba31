"""A GGUF file of an embedder → an EmbeddingModel computed by llama.cpp, tokenizer included.

Blocking; `loading.py` calls it for entries whose files are GGUF.
"""

from collections.abc import Sequence
from pathlib import Path

from localinfra.embed.encoder import Tokens
from localinfra.embed.model import EmbeddingModel
from localinfra.embed.tokenizer import MAX_BLANKS
from localinfra.embed.worker import EmbedWorker
from localinfra.errors import ModelUnavailable
from localinfra.llama.embedder import EmbedderSettings, LlamaEmbedder
from localinfra.llama.model import LoadFailed, Model, ModelSettings
from localinfra.machine import usable_cores
from localinfra.models.entries import EmbeddingModelEntry
from localinfra.models.gguf.reader import BadGguf, read_header

GGUF_CONTEXT = 4096  # default; an encoder reserves memory for all of it


def load_gguf_embedder(
    name: str, entry: EmbeddingModelEntry, path: Path, max_waiting: int
) -> EmbeddingModel:
    try:
        header = read_header(path, embeds=True)
        # At most the trained length: an encoder has no positions beyond it.
        trained = header.context_length or GGUF_CONTEXT
        length = min(entry.context_length or GGUF_CONTEXT, trained)
        threads = entry.threads or usable_cores()
        layers = 0 if entry.device == "cpu" else 999
        model = Model(path, ModelSettings(gpu_layers=layers))
        encoder = LlamaEmbedder(model, EmbedderSettings(length, threads, entry.pooling))
    except (BadGguf, LoadFailed) as error:
        raise ModelUnavailable(f"{name}: {error}", "model") from None
    worker = EmbedWorker(encoder, name=name, max_waiting=max_waiting)
    found = EmbeddingModel(name, entry, worker, GgufTokenizer(model, length), entry.prompts)
    found.footprint = encoder.footprint
    return found


class GgufTokenizer:
    """llama.cpp's vocabulary as `embed.Tokenizer`."""

    def __init__(self, model: Model, max_tokens: int):
        self._model = model
        self.max_tokens = max_tokens
        self.num_vocab = model.num_vocab
        self._before, self._after = model.tokens_around
        self.max_characters = max_tokens * max(model.longest_token, MAX_BLANKS)

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        return [
            self.wrap(self._model.tokenize(text, parse_special=False, add_bos=False))
            for text in texts
        ]

    def wrap(self, ids: list[int]) -> Tokens:
        return Tokens([*self._before, *ids, *self._after])

    def cut(self, tokens: Tokens) -> Tokens:
        if len(tokens) <= self.max_tokens:
            return tokens
        kept = self.max_tokens - len(self._after)
        return Tokens(tokens.ids[:kept] + self._after, None, tokens.num_prompt)
