"""One batch on its way through the engine, and the sequences in it. Decides nothing."""

from localinfra.engine.backend import Batch
from localinfra.engine.pictures import PictureRows
from localinfra.engine.sequence import Sequence


class Chunk:
    """The next tokens of one sequence in a batch, and the batch index of the first one.

    While the sequence decodes, a draft may follow them.
    """

    __slots__ = ("draft", "first_row", "is_prompt", "num_right", "num_tokens", "sequence", "start")

    def __init__(self, sequence: Sequence, num_tokens: int, draft: list[int], first_row: int):
        self.sequence = sequence
        self.start = sequence.num_cached
        self.num_tokens = num_tokens  # without the draft
        self.draft = draft
        self.num_right = 0  # tokens of the draft that were sampled too
        self.first_row = first_row
        self.is_prompt = not sequence.is_decoding


class Step:
    """One batch, and the sequences in it."""

    __slots__ = ("batch", "chunks", "max_threads", "num_padding", "num_prompt_tokens", "threads")

    def __init__(self) -> None:
        self.batch = Batch()
        self.chunks: list[Chunk] = []
        self.num_prompt_tokens = 0
        self.threads = 1
        self.max_threads: int | None = None  # for reproducible bits; None: no limit
        self.num_padding = 0  # rows at the end that belong to no sequence

    def add(self, sequence: Sequence, num_tokens: int, num_outputs: int, draft: list[int]) -> None:
        """Appends the sequence's next tokens; the last `num_outputs` of them, and all of the draft,
        give logits."""
        assert sequence.slot is not None
        chunk = Chunk(sequence, num_tokens, draft, len(self.batch))
        if chunk.is_prompt:
            self.num_prompt_tokens += num_tokens
        if placed := sequence.picture:
            first = chunk.start - placed.at
            self.batch.picture = PictureRows(placed.picture, first, first + num_tokens)
        tokens = sequence.tokens[chunk.start : chunk.start + num_tokens] + draft
        self.batch.extend(sequence.slot, chunk.start, tokens, num_outputs + len(draft))
        self.chunks.append(chunk)

    @property
    def depth(self) -> float:
        """How many tokens come before one of the prompts', on average."""
        sums = (
            chunk.num_tokens * (chunk.start + chunk.num_tokens / 2)
            for chunk in self.chunks
            if chunk.is_prompt
        )
        return sum(sums) / max(1, self.num_prompt_tokens)

    def pad(self, slot: int, num_rows: int, num_outputs: int) -> None:
        """Pads the batch to `num_rows` with tokens in the empty `slot`, and to `num_outputs` output
        rows with arbitrary rows."""
        self.num_padding = num_rows - len(self.batch)
        self.batch.extend(slot, 0, [0] * self.num_padding, 0)
        wanted = set(self.batch.output_rows)
        spare = [row for row in reversed(range(num_rows)) if row not in wanted]
        self.batch.output_rows = sorted([*wanted, *spare[: num_outputs - len(wanted)]])
