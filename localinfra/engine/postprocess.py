"""Rows of logits → the tokens, scores and events of one sequence. Moves no cells, sends nothing."""

import contextlib

from localinfra.engine.backend import Backend
from localinfra.engine.logprobs import token_logprob
from localinfra.engine.request import FinishReason, TokenEvent, TokenLogprob
from localinfra.engine.sampling import Sampler
from localinfra.engine.sequence import Sequence
from localinfra.engine.step import Chunk, Step
from localinfra.errors import ApiError


def sample(backend: Backend, chunk: Chunk, events: list[TokenEvent]) -> None:
    """Scores the chunk's prompt rows; samples a token if the chunk completes the sequence, and
    another after each accepted draft token, up to where the grammar forces others: so a text does
    not depend on drafts. Appends an event for each; those before an error stay.
    """
    sequence = chunk.sequence
    if sequence.num_unscored:
        _score_prompt(backend, chunk)
    if sequence.num_pending > 0:
        return
    if not sequence.request.max_tokens:
        events.append(_event(backend, sequence, None, None))
        return
    row = chunk.first_row + chunk.num_tokens - 1
    for guess in [*chunk.draft, None]:
        events.append(_sample_token(backend, sequence, row + chunk.num_right))
        if events[-1].finish_reason is not None:
            break
        is_right = events[-1].token == guess
        chunk.num_right += is_right
        if _append_forced(backend, sequence, events) or not is_right:
            break


def prepare(backend: Backend, step: Step) -> None:
    """While a GPU computes the step: what sampling will need besides logits, which is the masks of
    grammars. Greedy tokens rarely need one."""
    for sequence in [chunk.sequence for chunk in step.chunks] if backend.is_on_device else ():
        is_drawn = sequence.request.params.sampling.temperature > 0 and sequence.num_pending <= 0
        if sequence.constraint and is_drawn:
            with contextlib.suppress(ApiError):  # sampling raises it too, where it is handled
                sequence.constraint.prepare()


def _append_forced(backend: Backend, sequence: Sequence, events: list[TokenEvent]) -> bool:
    """Appends the tokens forced by the grammar: not sampled, and decoded with the last sampled
    token. With logprobs every token is sampled instead, since only that gives its logits. Returns
    whether there are any."""
    num_before = len(events)
    if sequence.constraint and sequence.request.params.top_logprobs is None:
        assert sequence.sampler is not None
        for token in sequence.constraint.forced():
            sequence.constraint.accept(token)
            sequence.sampler.accept(token)
            sequence.append(token)
            events.append(_event(backend, sequence, token, None))
            if events[-1].finish_reason is not None:
                break
    return len(events) > num_before


def _sample_token(backend: Backend, sequence: Sequence, row: int) -> TokenEvent:
    params, constraint = sequence.request.params, sequence.constraint
    if sequence.sampler is None:
        sequence.sampler = Sampler(params.sampling, sequence.choice, sequence.request.prompt)
    token, raw = None, None
    if params.top_logprobs is None and (found := backend.candidates(row)):
        token = sequence.sampler.sample_among(found, constraint)
    if token is None:
        logits = backend.logits(row)
        # The sampler edits the row in place; logprobs need the raw one.
        raw = None if params.top_logprobs is None else logits.copy()
        token = sequence.sampler.sample(logits, constraint)
    if constraint:
        constraint.accept(token)
    sequence.append(token)
    logprob = None if raw is None else token_logprob(raw, token, params.top_logprobs or 0)
    return _event(backend, sequence, token, logprob)


def _score_prompt(backend: Backend, chunk: Chunk) -> None:
    sequence, num_top = chunk.sequence, chunk.sequence.request.params.top_logprobs or 0
    last = min(chunk.start + chunk.num_tokens, sequence.num_prompt - 1)
    # After a preemption, rows before the first unscored token may be computed again.
    for position in range(max(chunk.start, len(sequence.prompt_logprobs) - 1), last):
        logits = backend.logits(chunk.first_row + position - chunk.start)
        token = sequence.tokens[position + 1]
        sequence.prompt_logprobs.append(token_logprob(logits, token, num_top))


def _event(
    backend: Backend, sequence: Sequence, token: int | None, logprob: TokenLogprob | None
) -> TokenEvent:
    request, num_generated = sequence.request, sequence.num_generated
    is_end = token is not None and backend.is_end(token)
    is_full = len(sequence.tokens) >= backend.context_length
    reason = None
    if is_end or (sequence.constraint and sequence.constraint.is_complete):
        reason = FinishReason.STOP
    elif num_generated >= request.max_tokens or is_full:
        reason = FinishReason.LENGTH
    return TokenEvent(
        choice=sequence.choice,
        token=token,
        num_generated=num_generated,
        num_cached=sequence.num_reused or 0,
        logprob=logprob,
        prompt_logprobs=sequence.prompt_logprobs
        if request.params.score_prompt and num_generated <= 1
        else None,
        is_end_token=is_end,
        finish_reason=reason,
    )
