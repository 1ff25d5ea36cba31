"""A GGUF embedder as an `embed.Encoder`: token ids → vectors, without torch.

One text at a time: texts packed together attend over the whole batch, which is slower on CPUs.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from localinfra.llama import log
from localinfra.llama.library import llama_cpp
from localinfra.llama.model import LoadFailed, Model

# enum llama_pooling_type; None: as the file says
POOLING = {None: -1, "mean": 1, "cls": 2, "last": 3}
POOLING_NONE, POOLING_RANK = 0, 4


class EmbedderSettings(msgspec.Struct, frozen=True):
    context_length: int  # tokens of a text
    threads: int
    pooling: str | None = None


class LlamaEmbedder:
    """Owns the context and keeps the model alive. One thread at a time.

    Raises LoadFailed if the file does not produce vectors.
    """

    num_lanes = 1

    def __init__(self, model: Model, settings: EmbedderSettings):
        self._model = model
        params = llama_cpp.llama_context_default_params()
        # The whole text in one ubatch: an encoder's tokens attend to each other.
        params.n_ctx = params.n_batch = params.n_ubatch = settings.context_length
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = settings.threads
        params.embeddings = True
        params.pooling_type = POOLING[settings.pooling]
        params.no_perf = True
        self._pointer, self.footprint = model.new_context(params)
        pooling = llama_cpp.llama_pooling_type(self._pointer)
        if pooling in (POOLING_NONE, POOLING_RANK):
            self.close()
            raise LoadFailed(
                f"{model.path} does not name a pooling method: set pooling in models.toml to the "
                "one the model was trained with (mean, cls or last)"
            )
        self._memory = llama_cpp.llama_get_memory(self._pointer)  # null for encoders
        self.name = "llama.cpp"
        self.width: int = llama_cpp.llama_model_n_embd_out(model.pointer)
        self.batch_tokens = settings.context_length
        self._batch = llama_cpp.llama_batch_init(settings.context_length, 0, 1)

    def encode(self, batch: Sequence[Any], *, is_alone: bool) -> NDArray[np.float32]:
        return np.stack([self._encode(tokens.ids) for tokens in batch])

    def _encode(self, ids: list[int]) -> NDArray[np.float32]:
        batch = self._batch
        batch.n_tokens = len(ids)
        for at, token in enumerate(ids):
            batch.token[at], batch.pos[at] = token, at
            batch.n_seq_id[at], batch.seq_id[at][0], batch.logits[at] = 1, 0, 1
        if self._memory:
            llama_cpp.llama_memory_clear(self._memory, True)
            code = llama_cpp.llama_decode(self._pointer, batch)
        else:
            code = llama_cpp.llama_encode(self._pointer, batch)
        if code:
            raise RuntimeError(f"llama.cpp returned {code} ({log.recent_errors()})")
        row = llama_cpp.llama_get_embeddings_seq(self._pointer, 0)
        return np.ctypeslib.as_array(row, (self.width,)).astype(np.float32, copy=True)

    def close(self) -> None:
        if self._pointer:
            llama_cpp.llama_free(self._pointer)
            self._pointer = None
            if hasattr(self, "_batch"):
                llama_cpp.llama_batch_free(self._batch)
