"""EmbeddingModel and RerankModel: loaded models as the API sees them. Texts → vectors or scores."""

import asyncio
import functools
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from localinfra.embed.encoder import Rows, Tokens, unit_length
from localinfra.embed.tokenizer import FastTokenizer, Tokenizer
from localinfra.embed.worker import Worker
from localinfra.errors import ApiError, InvalidRequest
from localinfra.models.catalog import EmbeddingModelEntry, RerankModelEntry

# What takes half a millisecond is done without another thread: to tokenise, and to normalise.
INLINE_CHARACTERS = 4000
INLINE_NUMBERS = 100_000

Input = str | list[int]  # a text, or its token ids


class InputTooLong(InvalidRequest):
    code = "context_length_exceeded"

    def __init__(self, index: int, num_tokens: int, limit: int, param: str):
        super().__init__(
            f"{param}[{index}] has {num_tokens} tokens, but this model's maximum context length is "
            f"{limit} tokens. Split it, or send truncate: true to have its end cut off.",
            param,
        )


class Embeddings(msgspec.Struct, frozen=True):
    rows: Rows  # [num_texts, dimensions]
    num_tokens: int  # that the model read
    truncated: list[int]  # indices of texts whose end was not


class EmbeddingModel:
    """Owns its worker. Made by `embed/loading.py`, closed by the pool."""

    def __init__(
        self,
        name: str,
        entry: EmbeddingModelEntry,
        worker: Worker,
        tokenizer: Tokenizer,
        prompts: Mapping[str, str],
    ):
        """`prompts` are what texts begin with, by its name: query, document, and the model's."""
        self.name = name
        self.entry = entry
        self.prompts = prompts
        self._worker = worker
        self._tokenizer = tokenizer

    @property
    def dimensions(self) -> int:
        return self._worker.encoder.width

    @property
    def context_length(self) -> int:
        return self._tokenizer.max_tokens

    @property
    def num_waiting(self) -> int:
        return self._worker.num_waiting

    def close(self) -> None:
        self._worker.close()

    def prompt(self, input_type: str | None, prompt_name: str | None) -> str:
        """What texts begin with. Raises InvalidRequest for a name the model does not have."""
        name = prompt_name or input_type
        if name is None or (prompt_name is None and name not in self.prompts):
            return ""
        if name not in self.prompts:
            known = ", ".join(sorted(self.prompts)) or "none"
            raise InvalidRequest(
                f"{self.name} has no prompt called {name[:100]!r}; it has {known}. More can be set "
                "as prompts in models.toml.",
                "prompt_name",
            )
        return self.prompts[name]

    async def embed(
        self,
        inputs: Sequence[Input],
        *,
        prompt: str = "",
        truncate: bool | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        param: str = "input",
    ) -> Embeddings:
        """`truncate` None: as models.toml says. Raises InvalidRequest naming `param` and the
        index of a text that can't be read, QueueFull, EngineFailed."""
        if dimensions is not None and not 1 <= dimensions <= self.dimensions:
            raise InvalidRequest(
                f"dimensions must be from 1 to {self.dimensions}, which {self.name} has.",
                "dimensions",
            )
        truncate = self.entry.truncate if truncate is None else truncate
        work = functools.partial(self._tokens, inputs, prompt, truncate, param)
        is_small = sum(map(len, inputs)) <= INLINE_CHARACTERS
        texts, truncated = work() if is_small else await asyncio.to_thread(work)
        rows = await self._worker.rows(texts)
        finish = functools.partial(self._finished, rows, dimensions, normalize)
        rows = finish() if rows.size <= INLINE_NUMBERS else await asyncio.to_thread(finish)
        return Embeddings(rows, sum(map(len, texts)), truncated)

    def _finished(self, rows: Rows, dimensions: int | None, normalize: bool) -> Rows:
        if not np.isfinite(rows).all():
            raise ApiError(f"{self.name} gave vectors that are no numbers; try dtype = 'float32'.")
        rows = rows[:, :dimensions]
        return unit_length(rows) if normalize else np.ascontiguousarray(rows)

    def _tokens(
        self, inputs: Sequence[Input], prompt: str, truncate: bool, param: str
    ) -> tuple[list[Tokens], list[int]]:
        own = self.entry.token_ids == "model"
        texts = self._read(inputs, prompt, own, param)
        truncated = []
        limit = self._tokenizer.max_tokens
        for index, tokens in enumerate(texts):
            if len(tokens) > limit:
                if not truncate:
                    raise InputTooLong(index, len(tokens), limit, param)
                truncated.append(index)
                texts[index] = self._tokenizer.cut(tokens)
        return texts, truncated

    def _read(self, inputs: Sequence[Input], prompt: str, own: bool, param: str) -> list[Tokens]:
        from localinfra.embed.cl100k import decode

        num_prompt = len(self._tokenizer.tokenize([prompt])[0]) - 1 if prompt else 0
        if own and inputs and isinstance(inputs[0], list):
            if prompt:
                raise InvalidRequest(
                    "Token ids can't follow a prompt; send texts, or leave the prompt out.", param
                )
            return [self._own(ids, index, param) for index, ids in enumerate(inputs)]  # type: ignore[arg-type]
        texts = [
            prompt + (text if isinstance(text, str) else decode(text, f"{param}[{index}]"))
            for index, text in enumerate(inputs)
        ]
        found = self._tokenizer.tokenize(texts)
        if num_prompt:
            found = [Tokens(tokens.ids, tokens.types, num_prompt) for tokens in found]
        return found

    def _own(self, ids: list[int], index: int, param: str) -> Tokens:
        num_vocab = self._tokenizer.num_vocab
        for token in ids:
            if not 0 <= token < num_vocab:
                raise InvalidRequest(
                    f"{param}[{index}] has the token id {token}, which is not in the vocabulary of "
                    f"{self.name}: it ends at {num_vocab - 1}.",
                    param,
                )
        return self._tokenizer.wrap(ids)


class Scores(msgspec.Struct, frozen=True):
    values: list[float]  # of each document, in their order
    num_tokens: int
    truncated: list[int]  # indices of documents whose end was not read


class RerankModel:
    """A cross-encoder: reads a query together with each document."""

    def __init__(
        self, name: str, entry: RerankModelEntry, worker: Worker, tokenizer: FastTokenizer
    ):
        self.name = name
        self.entry = entry
        self._worker = worker
        self._tokenizer = tokenizer

    @property
    def context_length(self) -> int:
        return self._tokenizer.max_tokens

    @property
    def num_waiting(self) -> int:
        return self._worker.num_waiting

    def close(self) -> None:
        self._worker.close()

    async def score(self, query: str, documents: Sequence[str], *, truncate: bool) -> Scores:
        """Raises InvalidRequest for a pair that is too long unless `truncate`, QueueFull,
        EngineFailed."""
        pairs = await asyncio.to_thread(self._tokenizer.tokenize_pairs, query, documents)
        limit, truncated = self._tokenizer.max_tokens, []
        for index, pair in enumerate(pairs):
            if len(pair) > limit:
                if not truncate:
                    raise InputTooLong(index, len(pair), limit, "documents")
                truncated.append(index)
                pairs[index] = self._tokenizer.cut(pair)
        rows = await self._worker.rows(pairs)
        return Scores(rows[:, 0].tolist(), sum(map(len, pairs)), truncated)
