"""POST /v1/completions, and /v1/engines/{id}/completions for the oldest clients."""

import codecs
import contextlib
from collections.abc import AsyncGenerator, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.call import Call
from localinfra.api.generation.logprobs import LogprobColumns, TextLogprobs
from localinfra.api.generation.params import (
    DEFAULT_TEXT_TOKENS,
    Defaults,
    GenerationFields,
    TopLogprobs,
    none_if_not_given,
)
from localinfra.api.generation.token_ids import are_ids
from localinfra.api.generation.usage import Charge, UsageMeter
from localinfra.api.http.held import holding
from localinfra.api.http.weight import MAX_TOKEN_IDS
from localinfra.api.openai.completion_writer import CompletionObject, CompletionWriter
from localinfra.chat.answer import Answer
from localinfra.engine.deltas import Deltas
from localinfra.engine.output import OutputDelta
from localinfra.engine.request import TokenLogprob
from localinfra.errors import InvalidRequest
from localinfra.executor import give_way
from localinfra.text.request import TextParams, TextRequest

if TYPE_CHECKING:
    from localinfra.text.model import TextModel  # brings numpy, which only a loaded model needs

ROUTE = "/v1/completions"
MAX_PROMPTS = 128
MAX_CHOICES = 1024  # prompts times best_of
INLINE_TOKENS = 2000  # detokenized in 1 ms
SCORES_AT_ONCE = 64  # encoded in 2 ms, with twenty alternatives each


class CompletionRequest(GenerationFields, frozen=True, kw_only=True):
    # a text, the token ids of one, or a list of either
    prompt: (
        str
        | Annotated[
            list[str | int | Annotated[list[int], Meta(max_length=MAX_TOKEN_IDS)]],
            Meta(min_length=1, max_length=MAX_TOKEN_IDS),
        ]
    )
    logprobs: TopLogprobs | None = None  # log probabilities of this many of the likeliest tokens
    echo: bool = False  # begin with the prompt, and with its log probabilities
    # generate so many, and send the n likeliest
    best_of: Annotated[int, Meta(ge=1, le=128)] | None = None
    suffix: str | None = None  # what follows the text, for models that can fill in the middle

    def check(self) -> None:
        super().check()
        if self.best_of is not None and self.best_of < self.n:
            raise InvalidRequest(f"best_of must be at least n, which is {self.n}.", "best_of")
        if self.num_candidates > self.n and self.stream:
            raise InvalidRequest(
                "best_of can't be streamed, since the best are only known at the end: leave out "
                "best_of or stream.",
                "best_of",
            )
        prompts = self.prompts
        if len(prompts) > MAX_PROMPTS:
            raise InvalidRequest(f"A request can have at most {MAX_PROMPTS} prompts.", "prompt")
        if len(prompts) * self.num_candidates > MAX_CHOICES:
            raise InvalidRequest(
                f"The request asks for {len(prompts) * self.num_candidates} generations, all "
                f"prompts and choices together: at most {MAX_CHOICES} are allowed.",
                "n",
            )
        if self.suffix and not all(isinstance(prompt, str) for prompt in prompts):
            raise InvalidRequest("suffix needs prompts as text, not as token ids.", "suffix")

    @property
    def num_candidates(self) -> int:
        """Choices to generate per prompt; the best n are returned."""
        return max(self.n, self.best_of or 1)

    def params(self, defaults: Defaults) -> TextParams:
        # Ranking needs at least the logprobs of the sampled tokens.
        ranks = self.num_candidates > self.n
        return TextParams(
            sampling=self.sampling_params(defaults),
            num_choices=self.num_candidates,
            top_logprobs=0 if ranks and self.logprobs is None else self.logprobs,
            score_prompt=self.echo and self.logprobs is not None,
            max_tokens=none_if_not_given(self.max_tokens),
            default_max_tokens=DEFAULT_TEXT_TOKENS,
            stops=self.stops,
        )

    @property
    def prompts(self) -> list[str | list[int]]:
        """One item per prompt. Raises InvalidRequest for a mixture."""
        items = self.prompt
        if isinstance(items, str):
            return [items]
        if are_ids(items):
            return [items]  # type: ignore[list-item]
        kinds = set(map(type, items))
        if kinds in ({str}, {list}):
            return items  # type: ignore[return-value]
        raise InvalidRequest(
            "prompt must be a string, a list of strings, a list of token ids, or a list of lists "
            "of token ids, not a mixture.",
            "prompt",
        )


class TextChoice(msgspec.Struct, frozen=True):
    index: int
    text: str
    logprobs: Annotated[msgspec.Raw, holding(TextLogprobs)] | None = None
    finish_reason: str | None = None  # stop or length; in a stream, null until the choice ends


class TextCompletion(CompletionObject, frozen=True, kw_only=True):
    """The texts that go on with the prompts, or a piece of a streamed one."""

    object: Literal["text_completion"] = "text_completion"
    choices: Sequence[TextChoice] = ()


async def create_completion(request: Request) -> Response:
    """Goes on with one or several texts.

    Control tokens in a prompt are read as such. `echo` with `logprobs` scores the prompt."""
    call = await Call.begin(request, CompletionRequest, MAX_TOKEN_IDS)
    return await answer_completion(call, call.body.model)


class EngineCompletionRequest(CompletionRequest, frozen=True, kw_only=True):
    model: str = ""  # it is in the path


async def create_engine_completion(request: Request) -> Response:
    """Goes on with a text; the model is in the path."""
    call = await Call.begin(request, EngineCompletionRequest, MAX_TOKEN_IDS)
    return await answer_completion(call, request.path_params["id"])


async def answer_completion(call: Call[CompletionRequest], name: str) -> Response:
    body = call.body
    body.check()
    call.log_user(body.user)
    model = await call.models.text(name, ROUTE)
    charge = call.charge(model)
    prompts = [
        await model.prompts.text(prompt, body.suffix or None)
        if isinstance(prompt, str)
        else model.prompts.checked_ids(prompt, "prompt")
        for prompt in body.prompts
    ]
    check_scores(body, prompts, call.runtime.settings.max_echoed_logprobs)
    compiled = await model.grammars.compile(Answer(body.answer_format), client=call.caller)
    call.report_ignored(compiled.left_out)
    echoes = [
        prompt if isinstance(prompt, str) else await echo_text(call, model, prompt)
        for prompt in (body.prompts if body.echo else ())
    ]
    deltas = model.generate(
        TextRequest(
            prompts=prompts,
            params=body.params(call.defaults(name)),
            grammar=compiled.grammar,
            prompt_param="prompt",
            client=call.caller,
        )
    )
    result = CompletionAnswer(model, body, prompts, echoes, charge, deltas)
    if body.stream:
        return call.stream(result.chunks(deltas), deltas)
    return call.pieces(await result.whole(deltas))


def check_scores(body: CompletionRequest, prompts: Sequence[Sized], most: int) -> None:
    """A prompt is scored once, and answered with each of its choices: a small request could ask for
    gigabytes. Raises InvalidRequest."""
    if body.echo and body.logprobs is not None:
        asked = sum(map(len, prompts)) * body.n * (1 + body.logprobs)
        if asked > most:
            raise InvalidRequest(
                f"With echo and logprobs the answer would hold {asked} log probabilities of the "
                f"prompt: at most {most} are allowed. Ask for fewer choices (n), fewer logprobs, "
                "or raise max_echoed_logprobs under [server] of models.toml.",
                "logprobs",
            )


async def echo_text(call: Call[CompletionRequest], model: "TextModel", ids: list[int]) -> str:
    if len(ids) <= INLINE_TOKENS:
        return model.text(ids)
    return await call.threads.conversions.run(model.text, ids, size=len(ids))


class CompletionAnswer:
    """A request's deltas → a completion or its chunks."""

    def __init__(
        self,
        model: "TextModel",
        body: CompletionRequest,
        prompts: list[list[int]],
        echoes: list[str],
        charge: Charge,
        deltas: Deltas,
    ):
        """`echoes`: the prompts' texts, or empty if not asked for."""
        self._model = model
        self._body = body
        self._prompt_ids = prompts
        lengths = [len(prompt) for prompt in prompts]
        self._meter = UsageMeter(charge, deltas, lengths, body.num_candidates)
        self._writer = CompletionWriter(TextCompletion, "cmpl", model.name, body, self._meter)
        self._echoes = echoes or [""] * len(prompts)
        self._prompt_scores: dict[int, LogprobColumns] = {}

    async def whole(self, deltas: Deltas) -> list[bytes]:
        """The completion, in pieces."""
        candidates = [
            Candidate(self._model) for _ in range(len(self._echoes) * self._body.num_candidates)
        ]
        async with contextlib.aclosing(deltas):
            async for step in deltas:
                for delta in step:
                    self._meter.add(delta)
                    candidates[delta.choice].add(delta)
                    await self._score(delta, candidates[delta.choice].scores)
        choices: list[TextChoice] = []
        for prompt in range(len(self._echoes)):
            start = prompt * self._body.num_candidates
            for best in self._best(candidates[start : start + self._body.num_candidates]):
                logprobs = None if self._body.logprobs is None else best.scores.json()
                text = self._echoes[prompt] + best.text
                choices.append(TextChoice(len(choices), text, logprobs, best.finish_reason))
        return await self._writer.whole(choices)

    def _best(self, candidates: "list[Candidate]") -> "list[Candidate]":
        if self._body.num_candidates == self._body.n:
            return candidates
        ranked = sorted(candidates, key=lambda candidate: -candidate.mean_logprob)
        return ranked[: self._body.n]

    def chunks(self, deltas: Deltas) -> AsyncGenerator[list[bytes], None]:
        """The chunks; the first of each choice holds its echo."""
        begun: set[int] = set()

        async def choices_of(delta: OutputDelta) -> list[TextChoice]:
            is_first = delta.choice not in begun
            begun.add(delta.choice)
            return await self._chunk_choices(delta, is_first)

        return self._writer.chunks(deltas, choices_of)

    async def _chunk_choices(self, delta: OutputDelta, is_first: bool) -> list[TextChoice]:
        """A delta's choices: one for its text, one for the end of the choice."""
        text = (self._echoes[self._prompt_of(delta)] if is_first else "") + delta.text
        choices = []
        if text or delta.scored or delta.prompt_logprobs:
            scores = LogprobColumns(self._model)
            await self._score(delta, scores)
            logprobs = None if self._body.logprobs is None else scores.json()
            choices.append(TextChoice(delta.choice, text, logprobs))
        if delta.finish_reason is not None:
            choices.append(TextChoice(delta.choice, "", None, delta.finish_reason))
        return choices

    def _prompt_of(self, delta: OutputDelta) -> int:
        return delta.choice // self._body.num_candidates

    async def _score(self, delta: OutputDelta, scores: LogprobColumns) -> None:
        """Adds a delta's logprobs, if asked for."""
        if self._body.logprobs is None:
            return
        prompt = self._prompt_of(delta)
        if delta.prompt_logprobs:
            scores.extend(await self._scored_prompt(prompt, delta.prompt_logprobs))
        for token in delta.scored:
            scores.add(token.logprob, len(self._echoes[prompt]) + token.offset)

    async def _scored_prompt(self, prompt: int, logprobs: list[TokenLogprob]) -> LogprobColumns:
        """The prompt's logprobs, encoded once for all its choices. Yields to the event loop
        meanwhile."""
        if (found := self._prompt_scores.get(prompt)) is None:
            found = LogprobColumns(self._model)
            offsets = self._prompt_offsets(prompt)
            for index, (logprob, offset) in enumerate(zip(logprobs, offsets, strict=False)):
                found.add(logprob, offset)
                if index % SCORES_AT_ONCE == SCORES_AT_ONCE - 1:
                    await give_way()
            self._prompt_scores[prompt] = found
        return found

    def _prompt_offsets(self, prompt: int) -> Iterator[int]:
        """Where each prompt token's text starts in the echo, in characters."""
        ids, echo = self._prompt_ids[prompt], self._echoes[prompt]
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        length = 0
        for index, token in enumerate(ids):
            yield min(length, len(echo))
            text = self._model.token_bytes(token)
            is_added = index == 0 and not echo.encode(errors="replace").startswith(text)
            length += 0 if is_added else len(decoder.decode(text))


class Candidate:
    """One choice while it is generated."""

    def __init__(self, model: "TextModel") -> None:
        self.text = ""
        self.scores = LogprobColumns(model)
        self.finish_reason: str | None = None
        self.mean_logprob = 0.0  # over all sampled tokens, including the end token

    def add(self, delta: OutputDelta) -> None:
        self.text += delta.text
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.mean_logprob = delta.sum_logprob / max(delta.num_generated, 1)
