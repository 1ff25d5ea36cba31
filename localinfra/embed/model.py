"""EmbeddingModel and RerankModel, as used by the API: texts → vectors or scores."""

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from localinfra.embed.cl100k import decode
from localinfra.embed.encoder import Rows, Tokens, unit_length
from localinfra.embed.measuring import Measurement
from localinfra.embed.tokenizer import FastTokenizer, Tokenizer
from localinfra.embed.worker import EmbedWorker, ignore
from localinfra.errors import ApiError, InvalidRequest
from localinfra.executor import BoundedExecutor, stop_if_abandoned
from localinfra.footprint import NO_MEMORY, Footprint
from localinfra.models.entries import EmbeddingModelEntry, ModelDetails, RerankModelEntry

# Up to this size, tokenizing and normalizing take half a millisecond and need no other thread.
INLINE_CHARACTERS = 4000
INLINE_NUMBERS = 100_000

NUM_READING = 2  # threads that tokenize, one of them only for inputs up to LARGE_INPUT
MAX_READING = 256  # requests that may wait for them
LARGE_INPUT = 200_000  # characters

# A text that may be too long is tokenized in two stages: first this many characters, then all. Its
# length says little, since endless words and blanks are few tokens.
CHARACTERS_AT_ONCE = 200_000
MAX_CHARACTERS = 4_000_000  # of a text; they take a second and 300 MB
MAX_PAIRED = 20_000_000  # characters of a very long query times documents, as it is read with each
PAIRS_AT_ONCE = 32
MAX_QUERY_SHARE = 0.75  # of a reranker's context

# Prompt names by input type, in the order in which sentence-transformers looks for them.
PROMPT_NAMES = {"query": ("query",), "document": ("document", "passage", "corpus")}

Input = str | list[int]  # a text, or its token ids


class InputTooLong(InvalidRequest):
    code = "context_length_exceeded"

    def __init__(self, index: int, reading: "TokenizedText", limit: int, param: str):
        super().__init__(
            f"{param}[{index}] has {reading.described}, but this model's maximum context length is "
            f"{limit} tokens. Split it, or send truncate: true to cut off its end.",
            param,
        )


class Embeddings(msgspec.Struct, frozen=True):
    rows: Rows  # [num_texts, dimensions]
    num_tokens: int  # read by the model
    truncated: list[int]  # indices of texts whose end was cut off


class EncoderModel:
    """Owns its worker and its measurement. Made by `loading.py`, closed by the pool."""

    footprint: Footprint = NO_MEMORY  # until it is measured

    worker: EmbedWorker
    _tokenizer: Tokenizer
    _measurement: Measurement | None

    @property
    def context_length(self) -> int:
        return self._tokenizer.max_tokens

    @property
    def details(self) -> ModelDetails:
        return ModelDetails(context_length=self.context_length)

    @property
    def is_busy(self) -> bool:
        """A running measurement counts: its result is kept and speeds up the next load."""
        is_measuring = self._measurement is not None and self._measurement.is_running
        return self.worker.num_waiting > 0 or self._reading.is_busy or is_measuring

    @functools.cached_property
    def _reading(self) -> BoundedExecutor:
        """Threads for tokenizing and normalizing that would hold up the event loop."""
        return BoundedExecutor("texts", NUM_READING, MAX_READING, LARGE_INPUT)

    def close(self) -> None:
        if self._measurement:
            self._measurement.cancel()
        self._reading.close()
        self.worker.close()


class EmbeddingModel(EncoderModel):
    """Texts → vectors."""

    def __init__(
        self,
        name: str,
        entry: EmbeddingModelEntry,
        worker: EmbedWorker,
        tokenizer: Tokenizer,
        prompts: Mapping[str, str],
        default_prompt: str = "",
        measurement: Measurement | None = None,
    ):
        """`prompts`: prefixes of texts by name (query, document, and the model's own);
        `default_prompt`: for requests that name none."""
        self.name = name
        self.entry = entry
        self.prompts = prompts
        self._default_prompt = default_prompt
        self._measurement = measurement
        self.worker = worker
        self._tokenizer = tokenizer

    @property
    def dimensions(self) -> int:
        return self.worker.width

    @property
    def details(self) -> ModelDetails:
        return ModelDetails(context_length=self.context_length, dimensions=self.dimensions)

    def prompt(self, input_type: str | None, prompt_name: str | None) -> str:
        """The prefix of texts. Raises InvalidRequest for a name the model does not have."""
        if prompt_name is None:
            names = PROMPT_NAMES.get(input_type or "", ())
            known = (self.prompts[name] for name in names if name in self.prompts)
            return next(known, self._default_prompt)
        if prompt_name not in list(self.prompts):  # hashed, one of 16 MB would take 13 ms
            listed = ", ".join(sorted(self.prompts)) or "none"
            raise InvalidRequest(
                f"{self.name} has no prompt called {prompt_name[:100]!r}; it has {listed}. Add "
                "others as prompts in models.toml.",
                "prompt_name",
            )
        return self.prompts[prompt_name]

    async def embed(
        self,
        inputs: Sequence[Input],
        *,
        prompt: str = "",
        truncate: bool | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        param: str = "input",
        client: str = "",
        left: Callable[[int], None] = ignore,
    ) -> Embeddings:
        """`truncate` None: as set in models.toml; `left`: see `EmbedWorker.rows`. Raises
        InvalidRequest with `param` and the index of a text that can't be used, QueueFull or
        EngineFailed."""
        if dimensions is not None and not 1 <= dimensions <= self.dimensions:
            raise InvalidRequest(
                f"dimensions must be from 1 to {self.dimensions} for {self.name}.",
                "dimensions",
            )
        self.worker.check_room(client)
        truncate = self.entry.truncate if truncate is None else truncate
        work = functools.partial(self._tokens, inputs, prompt, truncate, param)
        num_characters = sum(len(text) + len(prompt) + 20 for text in inputs)
        is_small = num_characters <= INLINE_CHARACTERS and isinstance(inputs[0], str)
        run = self._reading.run
        texts, truncated = work() if is_small else await run(work, size=num_characters)
        rows, num_tokens = await self.worker.rows(texts, client, left), sum(map(len, texts))
        finish = functools.partial(self._finish, rows, dimensions, normalize)
        try:
            rows = finish() if rows.size <= INLINE_NUMBERS else await run(finish)
        except asyncio.CancelledError:
            left(num_tokens)
            raise
        return Embeddings(rows, num_tokens, truncated)

    def _finish(self, rows: Rows, dimensions: int | None, normalize: bool) -> Rows:
        if not np.isfinite(rows).all():
            raise ApiError(
                f"{self.name} returned vectors with NaN or infinity; try dtype = 'float32'."
            )
        rows = rows[:, :dimensions]
        return unit_length(rows) if normalize else np.ascontiguousarray(rows)

    def _tokens(
        self, inputs: Sequence[Input], prompt: str, truncate: bool, param: str
    ) -> tuple[list[Tokens], list[int]]:
        if self.entry.token_ids == "model" and isinstance(inputs[0], list):
            if prompt:
                raise InvalidRequest(
                    "Token ids can't be combined with a prompt; send texts, or omit the prompt.",
                    param,
                )
            found = [self._own(ids, index, param) for index, ids in enumerate(inputs)]  # type: ignore[arg-type]
            return cut_to_limit(
                self._tokenizer, [TokenizedText(own) for own in found], truncate, param
            )
        texts = [
            prompt + (text if isinstance(text, str) else decode(text, f"{param}[{index}]"))
            for index, text in enumerate(inputs)
        ]
        num_prompt = len(self._tokenizer.tokenize([prompt])[0]) - 1 if prompt else 0
        found, truncated = tokenize_within_limit(self._tokenizer, texts, truncate, param)
        if num_prompt:
            found = [Tokens(tokens.ids, tokens.types, num_prompt) for tokens in found]
        return found, truncated

    def _own(self, ids: list[int], index: int, param: str) -> Tokens:
        num_vocab = self._tokenizer.num_vocab
        for token in ids:
            if not 0 <= token < num_vocab:
                raise InvalidRequest(
                    f"{param}[{index}] contains token id {token}, which is not in the vocabulary "
                    f"of {self.name}; the last id is {num_vocab - 1}.",
                    param,
                )
        return self._tokenizer.wrap(ids)


class Scores(msgspec.Struct, frozen=True):
    values: list[float]  # of each document, in order
    num_tokens: int
    truncated: list[int]  # indices of documents whose end was cut off


class RerankModel(EncoderModel):
    """A cross-encoder: scores a query together with each document."""

    def __init__(
        self,
        name: str,
        entry: RerankModelEntry,
        worker: EmbedWorker,
        tokenizer: FastTokenizer,
        measurement: Measurement | None = None,
    ):
        self.name = name
        self.entry = entry
        self._measurement = measurement
        self.worker = worker
        self._tokenizer: FastTokenizer = tokenizer

    async def score(
        self,
        query: str,
        documents: Sequence[str],
        *,
        truncate: bool,
        client: str = "",
        left: Callable[[int], None] = ignore,
    ) -> Scores:
        """`left`: see `EmbedWorker.rows`. Raises InvalidRequest if the query leaves no room for
        documents, or if a pair is too long without `truncate`; QueueFull or EngineFailed."""
        self.worker.check_room(client)
        num_characters = len(query) * len(documents) + sum(map(len, documents))
        pairs, truncated = await self._reading.run(
            self._pairs, query, documents, truncate, size=num_characters
        )
        rows = await self.worker.rows(pairs, client, left)
        if not np.isfinite(rows).all():
            raise ApiError(
                f"{self.name} returned scores with NaN or infinity; try dtype = 'float32'."
            )
        return Scores(rows[:, 0].tolist(), sum(map(len, pairs)), truncated)

    def _pairs(
        self, query: str, documents: Sequence[str], truncate: bool
    ) -> tuple[list[Tokens], list[int]]:
        tokenizer = self._tokenizer
        limit = int(tokenizer.max_tokens * MAX_QUERY_SHARE)
        [read] = tokenize_beginnings(tokenizer.tokenize, [query], tokenizer.max_characters, limit)
        if not read.fits(limit):
            raise InvalidRequest(
                f"The query has {read.described}; at most {limit} tokens leave room for the "
                "documents. Shorten it.",
                "query",
            )
        is_long = len(query) > tokenizer.max_characters
        if is_long and len(query) * len(documents) > MAX_PAIRED:
            raise InvalidRequest(
                f"The query has {len(query)} characters, too many to be read with each of "
                f"{len(documents)} documents. Shorten it, or send fewer documents.",
                "query",
            )
        pairs: list[Tokens] = []
        truncated: list[int] = []
        for start in range(0, len(documents), PAIRS_AT_ONCE):
            part = documents[start : start + PAIRS_AT_ONCE]
            found = tokenize_beginnings(
                functools.partial(tokenizer.tokenize_pairs, query),
                part,
                tokenizer.max_characters,
                tokenizer.max_tokens,
            )
            cut, at = cut_to_limit(tokenizer, found, truncate, "documents", start)
            pairs += cut
            truncated += at
        return pairs, truncated


def tokenize_within_limit(
    tokenizer: Tokenizer, texts: Sequence[str], truncate: bool, param: str
) -> tuple[list[Tokens], list[int]]:
    """Tokenizes texts and truncates them; returns the indices of truncated ones too. Works on a few
    at a time, since ids take a hundred times the text's memory. Raises InputTooLong unless
    `truncate`."""
    found: list[Tokens] = []
    truncated: list[int] = []
    # Enough characters beyond the limit that errors can state the exact number of tokens.
    first_look = max(tokenizer.max_characters, CHARACTERS_AT_ONCE)
    start = 0
    while start < len(texts):
        stop, num_characters = start, 0
        while stop < len(texts) and num_characters < CHARACTERS_AT_ONCE:
            num_characters += min(len(texts[stop]), first_look)
            stop += 1
        read = tokenize_beginnings(
            tokenizer.tokenize, texts[start:stop], first_look, tokenizer.max_tokens
        )
        cut, at = cut_to_limit(tokenizer, read, truncate, param, start)
        found += cut
        truncated += at
        start = stop
    return found, truncated


class TokenizedText(msgspec.Struct, frozen=True):
    """A text, or its beginning, as tokens."""

    tokens: Tokens
    num_characters: int | None = None  # of the beginning; None if it is all

    def fits(self, limit: int) -> bool:
        return len(self.tokens) <= limit and self.num_characters is None

    @property
    def described(self) -> str:
        tokens = f"{len(self.tokens)} tokens"
        if self.num_characters is None:
            return tokens
        return f"{tokens} in its first {self.num_characters} characters, where reading stopped"


def tokenize_beginnings(
    tokenize: Callable[[Sequence[str]], list[Tokens]],
    texts: Sequence[str],
    first_look: int,
    limit: int,
) -> list[TokenizedText]:
    """Tokenizes the first characters of each text, and up to `MAX_CHARACTERS` if those are at most
    `limit` tokens. Raises Abandoned."""
    stop_if_abandoned()
    found: list[TokenizedText] = []
    for text, tokens in zip(texts, tokenize([text[:first_look] for text in texts]), strict=True):
        num_read = first_look
        if len(tokens) <= limit and len(text) > first_look:
            stop_if_abandoned()
            num_read = MAX_CHARACTERS
            [tokens] = tokenize([text[:num_read]])
        found.append(TokenizedText(tokens, num_read if len(text) > num_read else None))
    return found


def cut_to_limit(
    tokenizer: Tokenizer, texts: Sequence[TokenizedText], truncate: bool, param: str, start: int = 0
) -> tuple[list[Tokens], list[int]]:
    """Truncates texts, whose indices begin at `start`; returns the indices of truncated ones too.
    Raises InputTooLong unless `truncate`."""
    limit = tokenizer.max_tokens
    cut: list[Tokens] = []
    truncated: list[int] = []
    for index, reading in enumerate(texts, start):
        if not reading.fits(limit):
            if not truncate:
                raise InputTooLong(index, reading, limit, param)
            truncated.append(index)
        cut.append(tokenizer.cut(reading.tokens))
    return cut, truncated
