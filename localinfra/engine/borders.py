"""Where a prompt's states are saved: where others are likely to branch off. Pure."""

from collections.abc import Iterator

from localinfra.engine.radix import Match
from localinfra.engine.request import GenerationRequest
from localinfra.engine.runs import border_after
from localinfra.engine.sequence import Sequence

# Tokens. From one state to the next there are at least so many: fewer are computed again as fast.
MIN_GAP = 16
# The next turn leaves the prompt of this one up to so many before its end: templates open an answer
# (`<|im_start|>assistant`, `<think>`) in other words than they repeat it.
BEFORE_END = 6
# So few new tokens are read in one step rather than one for each state among them: a step of its
# own for a few tokens takes as long as ten more in a larger one.
SHORT = 64
INTERVAL = 2048  # of a long prompt, for prompts that leave it somewhere
CANONICAL_INTERVAL = 16  # chunks


def saved_positions(
    sequence: Sequence, match: Match, chunk: int, *, is_whole: bool = False
) -> set[int]:
    """The positions of a prompt whose states are to be saved, after what it shares by `match`. Its
    chunks end there; a canonical one has chunks of a fixed size, `chunk` (else 0). `is_whole`: each
    state has all cells before it.

    They are where its last message begins, where its answer does, and where an earlier prompt left
    the same beginning: a second one tells that more will. A short message after an answer that is
    known to its end needs none: the template repeats answers as they were, so the next turn goes
    on from the end of this one.
    """
    request, end = sequence.request, sequence.num_prompt
    if chunk:
        # The chunk before the last two tokens ends alike in every longer prompt.
        last = 0 if request.params.score_prompt else end - 2
        starts = [0, *(placed.end for placed in request.pictures)]
        stops = [*(placed.at for placed in request.pictures), last]
        spans = zip(starts, stops, strict=True)
        ends = [at for a, b in spans for at in range(a, min(b, last) + 1, chunk)]
        after_pictures = set(starts).intersection(ends)
        regular = (ends[at] for at in marks(CANONICAL_INTERVAL, len(ends), doubling=is_whole))
        return {*regular, *ends[-1:], *after_pictures} - {0}
    known = match.num_known
    wanted = {request.border, *marks(INTERVAL, end, doubling=is_whole)}
    if match.num_seen - known >= SHORT:
        wanted.add(match.num_seen)
    if request.params.num_choices > 1:
        wanted.add(end - 1)  # further choices begin before the last token: its logits are needed
    elif not 0 < request.border <= known + MIN_GAP or end - known >= SHORT:
        wanted.add(end - BEFORE_END)
    positions: set[int] = set()
    # After a picture rather than in it: reading it again takes long.
    for position in sorted(border_after(request.prompt, position) for position in wanted):
        if known + MIN_GAP <= position < end:
            positions.add(position)
            known = position
    return positions


def marks(step: int, stop: int, *, doubling: bool) -> Iterator[int]:
    """Multiples of `step` below `stop`; if `doubling`, only those that double the one before, whose
    sum is at most twice the last."""
    at = step
    while at < stop:
        yield at
        at += at if doubling else step


def ends_alike(request: GenerationRequest, position: int, chunk: int) -> bool:
    """Whether a chunk of a fixed size ends here in every prompt that begins like this one, and goes
    on. After a picture, chunks begin anew."""
    start = 0
    for placed in request.pictures:
        if position < placed.end:
            return position <= placed.at and (position - start) % chunk == 0
        start = placed.end
    return (position - start) % chunk == 0


def saved_before(sequence: Sequence, position: int, *, can_add: bool) -> int:
    """The last saved position of its prompt up to this one, which is added if it can be, and is
    neither computed yet nor near another."""
    last = max((at for at in sequence.saved_at if at <= position), default=0)
    if can_add and position > sequence.num_cached and position - last >= MIN_GAP:
        sequence.saved_at.add(position)
        return position
    return last
