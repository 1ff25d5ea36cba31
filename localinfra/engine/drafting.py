"""Speculative decoding: who drafts for which sequence, and how much of it a step verifies.

Prompt lookup costs nothing; a draft model takes steps of its own, which `Speculator` weighs against
the tokens it brings. What the model has not read of a text costs once more than it saves at once:
it is read when that would pay if the answer became twice as long as it is.
"""

from localinfra.engine.backend import Backend, DraftBackend
from localinfra.engine.canonical import CanonicalShapes
from localinfra.engine.draft_model import DraftModel
from localinfra.engine.kvcache import KVCache
from localinfra.engine.policy.numbers import NUMBERS
from localinfra.engine.policy.speculation import Speculator
from localinfra.engine.policy.step_times import StepTimes
from localinfra.engine.policy.threads import ThreadController
from localinfra.engine.request import EngineSettings
from localinfra.engine.sequence import Sequence
from localinfra.engine.step import Chunk


class Drafting:
    """Call `draft` before a step, `accept` after it. Engine thread only."""

    def __init__(
        self,
        backend: Backend,
        cache: KVCache,
        shapes: CanonicalShapes,
        times: StepTimes,
        threads: ThreadController,
        drafter: DraftBackend | None,
        settings: EngineSettings,
    ):
        can_draft = backend.max_rollback > 0
        self._looks_up = settings.prompt_lookup and can_draft
        self._model = DraftModel(drafter, backend.num_vocab) if drafter and can_draft else None
        self._backend = backend
        self._cache = cache
        self._shapes = shapes
        self._times = times
        self._threads = threads
        self._speculator = Speculator()
        self._max_gap_ratio = settings.max_gap_ratio
        self._reading: set[Sequence] = set()  # over several steps
        self._spare = NUMBERS.allowance  # steps that reading for mere trials may take
        self.num_drafted = self.num_accepted = 0  # tokens

    def draft(
        self, decoding: list[Sequence], max_rows: int, *, only_one: bool
    ) -> dict[Sequence, list[int]]:
        """Drafts, as long as pays. With `only_one`, only for the most promising sequence."""
        is_usual = all(sequence.num_pending == 1 for sequence in decoding)
        if not decoding or not is_usual or not (self._looks_up or self._model):
            return {}
        threads = self._threads.settled(is_prefill=False)
        usual_s = self._times.expected(len(decoding), 0, threads)
        self._spare += NUMBERS.refill
        looked_up = {sequence: self._looked_up(sequence) for sequence in decoding}
        guessed = self._guessed(looked_up) if usual_s else {}
        chances = [guessed.get(sequence) or looked_up[sequence] for sequence in decoding]
        if only_one:
            best = max(chances, key=sum)
            chances = [each if each is best else [] for each in chances]
            guessed = {s: each for s, each in guessed.items() if each is best}

        def cost(num_rows: int) -> float:
            return self._times.expected(num_rows, 0, threads) or num_rows

        guess_s = self._guess_s(len(guessed), threads)
        work = [guess_s if sequence in guessed else 0.0 for sequence in decoding]
        limit = min(self._backend.max_output_rows, max_rows) - len(decoding)
        size_of = self._shapes.size_of(decoding)
        sizes = self._speculator.sizes(chances, limit, cost, size_of, work)
        wanted = {s: size for s, size in zip(decoding, sizes, strict=True) if size}
        drafts: dict[Sequence, list[int]] = {}
        if usual_s and (guessed or self._reading):
            of_model = {s: size for s, size in wanted.items() if s in guessed}
            drafts = self._from_model(of_model, usual_s, threads)
        for sequence, size in wanted.items():
            if sequence not in drafts and looked_up[sequence]:
                drafts[sequence] = sequence.drafter.draft(min(size, len(looked_up[sequence])))
        if not self._cache.make_room(len(decoding) + sum(map(len, drafts.values()))):
            for sequence in drafts:
                if self._model:
                    self._model.accept(sequence, 0)
            return {}
        return drafts

    def accept(self, chunk: Chunk) -> None:
        """The chunk was sampled from."""
        self.num_drafted += len(chunk.draft)
        self.num_accepted += chunk.num_right
        is_guessed = self._model and self._model.accept(chunk.sequence, chunk.num_right)
        if chunk.draft and not is_guessed:
            chunk.sequence.drafter.accept(chunk.num_right)

    def finish(self, sequence: Sequence) -> None:
        """The sequence has no slot any more."""
        self._reading.discard(sequence)
        if self._model:
            self._model.finish(sequence)

    def _num_wanted(self, sequence: Sequence) -> int:
        """Guesses that still fit in the answer."""
        if sequence.request.is_reproducible and not self._backend.canonical_rows:
            return 0  # another batch shape rounds differently
        room = self._backend.context_length - len(sequence.tokens)
        left = min(sequence.request.max_tokens - sequence.num_generated, room) - 1
        return max(0, min(left, self._backend.max_rollback))

    def _looked_up(self, sequence: Sequence) -> list[float]:
        if not self._looks_up:
            return []
        return sequence.drafter.chances(self._num_wanted(sequence))

    def _guessed(self, looked_up: dict[Sequence, list[float]]) -> dict[Sequence, list[float]]:
        """The chances of sequences for which the model is better than lookup, which is free."""
        if not self._model:
            return {}
        texts = [s for s in looked_up if not s.request.pictures]  # the model doesn't see
        each = {s: self._model.chances(s, self._num_wanted(s)) for s in texts}
        return {s: chances for s, chances in each.items() if chances[:1] > looked_up[s][:1]}

    def _guess_s(self, num_sequences: int, threads: int) -> float:
        """Seconds of the draft model per guess. The first ones are free, to see what they take."""
        if not self._model or not num_sequences:
            return 0.0
        return (self._model.times.expected(num_sequences, 0, threads) or 0.0) / num_sequences

    def _from_model(
        self, sizes: dict[Sequence, int], usual_s: float, threads: int
    ) -> dict[Sequence, list[int]]:
        """Drafts of the sequences that the model has read, up to their sizes; it also reads more
        of others. `usual_s` is what a step without drafts takes."""
        model = self._model
        assert model is not None
        self._reading |= {each for each in sizes if self._is_worth_reading(each, usual_s, threads)}
        # Streams wait for it as they would for a prompt.
        gap_s = (self._max_gap_ratio - 1) * usual_s
        model.read(self._reading, model.times.num_tokens(gap_s, 0, threads), threads)
        self._reading = {each for each in self._reading if model.num_unread(each)}
        ready = {each: size for each, size in sizes.items() if not model.num_unread(each)}
        return model.draft(ready, self._speculator.least_chance, threads)

    def _is_worth_reading(self, sequence: Sequence, usual_s: float, threads: int) -> bool:
        """Whether drafts may save what is left to read, or that may be lost in a trial."""
        model = self._model
        assert model is not None
        if sequence in self._reading or not model.num_unread(sequence):
            return True
        unread_s = model.times.expected(0, model.num_unread(sequence), threads) or 0.0
        if unread_s <= self._speculator.saved * usual_s * sequence.num_generated:
            return True
        is_spare = unread_s <= self._spare * usual_s
        self._spare -= unread_s / usual_s * is_spare
        return is_spare
