"""Waiting and running sequences → the next batch, within slots, cells and the token budget.

Decides who computes what next. `engine.py` computes it, and `kvcache.py` knows in which cells.
"""

from collections.abc import Callable

from localinfra.engine.backend import Backend, DraftBackend
from localinfra.engine.batching import Batching
from localinfra.engine.borders import saved_before, saved_positions
from localinfra.engine.canonical import FEW_IDLE, CanonicalShapes
from localinfra.engine.drafting import Drafting
from localinfra.engine.keeping import Keeping
from localinfra.engine.kvcache import KVCache
from localinfra.engine.offloaded import Shelf
from localinfra.engine.policy.idle_cores import IdleCores
from localinfra.engine.policy.prefill import Prefill
from localinfra.engine.policy.step_times import StepTimes
from localinfra.engine.policy.threads import ThreadController, rungs
from localinfra.engine.radix import Match, Prefix
from localinfra.engine.request import EngineSettings, EngineStats
from localinfra.engine.runs import shared_run
from localinfra.engine.sequence import Sequence
from localinfra.engine.step import Chunk, Step
from localinfra.engine.tidying import MANY_IDLE
from localinfra.engine.turns import Turns

# Cells kept free for a new sequence's first tokens. More would leave cells unused; with fewer,
# growing sequences would preempt each other, and what they lose is computed again.
GROWTH_RESERVE = 64

# Tokens of a prefix that another sequence is just computing: from so many on, waiting for them is
# faster than computing them twice.
WORTH_WAITING = 8


class Scheduler:
    """Owns the queue and the running set. Engine thread only.

    Sequences are admitted in turns (`turns.py`), except that one waits while another computes the
    prefix it needs. A running sequence never fails for want of cells: when all outgrow the cache,
    the youngest is preempted, goes to the head of the queue, and later goes on where it was. When a
    client comes, a sequence of one with more than its share of slots is preempted.
    """

    def __init__(
        self,
        backend: Backend,
        settings: EngineSettings,
        shelf: Shelf | None = None,
        send: Callable[[Callable[[], None]], None] = lambda command: command(),
        drafter: DraftBackend | None = None,
        turns: Turns | None = None,
    ):
        """`shelf` has the prefixes of earlier engines; `send` runs a function on the engine's
        thread; `drafter` is a model that drafts. `turns`: those of a scheduler whose waiting
        sequences this one takes over."""
        self._backend = backend
        self._times = StepTimes()
        adapts = settings.adapts_threads and not backend.is_on_device
        counts = rungs(backend.max_threads) if adapts else [backend.max_threads]
        self._threads = ThreadController(self._times, counts, IdleCores())
        limits = settings.max_gap_ratio, settings.max_stall_s
        prefill = Prefill(self._times, self._threads, *limits)
        self.cache = KVCache(backend, settings.max_offloaded, settings.max_stall_s)
        self.keeping = Keeping(self.cache, backend, shelf, send)
        self._shapes = CanonicalShapes(backend, self.cache)
        self.drafting = Drafting(
            backend, self.cache, self._shapes, self._times, self._threads, drafter, settings
        )
        self._batching = Batching(backend, self.cache, self._shapes, prefill, self.drafting)
        self.waiting: list[Sequence] = []
        self.turns = turns or Turns()
        self._has_changed = False  # who waits or runs, since turns were last looked at
        self.running: list[Sequence] = []  # in order of admission
        self._num_steps = 0
        self._num_computed = 0  # tokens, by the last step
        self._step_s = 0.0  # of all steps
        self._num_step_tokens = 0
        self._num_arrived = 0  # copies of prefixes, when turns were last looked at

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do before a command comes: nobody runs, and who waits, waits
        for its prefix to be read."""
        has_news = self._has_changed or self.keeping.num_arrived != self._num_arrived
        is_stalled = self.keeping.is_reading and not has_news
        return not self.running and (not self.waiting or is_stalled)

    def add(self, sequence: Sequence) -> None:
        self.turns.arrived(sequence)
        self.waiting.append(sequence)
        self._has_changed = True

    def remove(self, sequence: Sequence) -> None:
        """The sequence is done or cancelled. What it computed stays as a cached prefix."""
        self._has_changed = True
        if sequence.slot is None:
            self.waiting.remove(sequence)
        else:
            self._give_up_slot(sequence)
            self.running.remove(sequence)

    def schedule(self, meanwhile: Callable[[Step], None] = lambda step: None) -> Step:
        """Admits who fits and makes the step: one token of each decoding sequence, then chunks of
        prompts in turn, within the budget. Drafts join where all decode. `meanwhile` is called
        before cells are put in order for it, which may take as long as a step.

        Raises DecodeFailed and MemoryError, as `KVCache.relay` does."""
        self._num_steps += 1
        self._admit()
        keeps_order = any(map(self._shapes.keeps_order, self.running))
        self.cache.tidy(self._num_computed, keeps_order=keeps_order)
        while True:
            self._make_room_for_decoding()
            step = self._batching.step_of(self.running, self._num_steps)
            if step.chunks or len(self.running) < 2:
                break
            self._preempt_youngest()  # prompts fill all cells, and none is complete
        meanwhile(step)
        self._shapes.complete(step)
        threads = self._threads.threads(step.num_prompt_tokens > 0)
        step.threads = min(threads, step.max_threads or threads)
        return step

    def observe(self, step: Step, seconds: float) -> None:
        """The step took so long."""
        num_rows = len(step.batch) - step.num_prompt_tokens
        seen = (num_rows, step.num_prompt_tokens, step.threads, seconds, step.depth)
        if step.max_threads is None:
            self._threads.observe(*seen)
        self._times.observe(*seen)
        self._step_s += seconds

    def advance(self, step: Step) -> None:
        """The step was computed, or is: its tokens are in the cache, and prompts are offered to
        others. What may be forbidden after it is found out."""
        self.cache.bring_back()
        for chunk in step.chunks:
            sequence = chunk.sequence
            assert sequence.slot is not None
            self.cache.advance(sequence.slot, chunk.num_tokens + len(chunk.draft))
            sequence.advance(chunk.num_tokens)
            sequence.stepped_at = self._num_steps
            if sequence.num_cached > sequence.num_prompt and self._shapes.decodes_apart(sequence):
                self.cache.distrust(sequence.slot)  # a longer prompt gets other bits
            if chunk.is_prompt:
                sequence.decoding_since = self._num_steps
            if sequence.num_cached <= sequence.num_prompt and self._shapes.is_shared(sequence):
                self.cache.record(sequence.slot, sequence.tokens[: sequence.num_shareable])
                if sequence.num_cached in sequence.saved_at:
                    self.cache.save_state(sequence.slot)
        if step.num_padding:
            self.cache.drop_padding()
        self._num_computed = len(step.batch)
        self._num_step_tokens += self._num_computed - step.num_padding

    def stats(self, num_steps: int) -> EngineStats:
        """`num_steps`: of the engine, which may have had other schedulers."""
        return EngineStats(
            num_running=len(self.running),
            num_waiting=len(self.waiting),
            num_steps=num_steps,
            kv_used=self.cache.num_used,
            kv_total=self._backend.num_cells,
            kv_shared=self.cache.num_used - self.cache.num_private,
            state_bytes=self.cache.copies.most_state_bytes,
            num_drafted=self.drafting.num_drafted,
            num_accepted=self.drafting.num_accepted,
            step_s=self._step_s,
            num_step_tokens=self._num_step_tokens,
            num_answering=sum(sequence.is_decoding for sequence in self.running),
        )

    def accept(self, chunk: Chunk) -> None:
        """The chunk was sampled from: draft tokens that are not right leave."""
        chunk.sequence.num_cached += chunk.num_right
        self.drafting.accept(chunk)
        if chunk.num_right < len(chunk.draft):
            assert chunk.sequence.slot is not None
            self.cache.retract(chunk.sequence.slot, len(chunk.draft) - chunk.num_right)

    def _admit(self) -> None:
        """Starts who is next in turn, while there is room."""
        if len(self.running) == self._backend.num_sequences and not self._has_changed:
            return  # as before, where nobody had to make way
        self._has_changed = False
        self._num_arrived = self.keeping.num_arrived
        passed_over: set[Sequence] = set()
        while self._start_next(passed_over):
            pass

    def _start_next(self, passed_over: set[Sequence]) -> bool:
        """Starts the first in turn that can start; False where none can."""
        eligible = [sequence for sequence in self.waiting if sequence not in passed_over]
        for sequence in self.turns.order(eligible, self.running):
            if sequence.waits_for_scores:
                passed_over.add(sequence)
                self._has_changed = True
                continue
            match = self.cache.match(
                sequence.prefix,
                self._shapes.num_reusable(sequence),
                is_canonical=self._shapes.is_canonical(sequence),
            )
            if self._prefix_is_coming(sequence, match.num_known):
                passed_over.add(sequence)
                self._has_changed = True  # soon
                continue
            if self.keeping.fetch(match):
                passed_over.add(sequence)
                continue
            if not self._has_place(sequence, match.num_held):
                return False
            self.waiting.remove(sequence)
            self._start(sequence, match)
            return True
        return False

    def _has_place(self, sequence: Sequence, held: int) -> bool:
        """Whether there is a slot and room for it. Preempts sequences over their share, if need be
        and if that is enough."""
        running = list(self.running)
        victims: list[Sequence] = []
        while len(running) == self._backend.num_sequences or not self._fits(
            sequence, held, running, victims
        ):
            victim = self.turns.over_share(running, sequence)
            # Otherwise the victim would lose all that it has computed.
            if victim is None or not self.cache.keeps_prefixes:
                return False
            running.remove(victim)
            victims.append(victim)
        for victim in victims:
            self._preempt(victim)
        return self._fits(sequence, held, self.running, [])

    def _start(self, sequence: Sequence, match: Match) -> None:
        if self._backend.needs_states:
            chunk = self._shapes.fixed_chunk(sequence)
            is_whole = not self._backend.shares_cells
            sequence.saved_at = saved_positions(sequence, match, chunk, is_whole=is_whole)
        slot, length = self.cache.acquire(
            sequence.prefix,
            self._shapes.num_reusable(sequence),
            is_canonical=self._shapes.is_canonical(sequence),
            max_idle=FEW_IDLE if self._shapes.is_shaped(sequence) else MANY_IDLE,
        )
        sequence.slot, sequence.num_cached = slot, length
        sequence.admitted_at = self._num_steps
        sequence.was_preempted = False
        self.turns.started(sequence)
        if sequence.num_reused is None:
            sequence.num_reused = length
        self.running.append(sequence)

    def _prefix_is_coming(self, sequence: Sequence, reusable: int) -> bool:
        limit = self._shapes.num_reusable(sequence)
        if not self.cache.keeps_prefixes or limit < reusable + WORTH_WAITING:
            return False
        return any(
            other.num_cached < (shared := self._num_shared(sequence, other, reusable))
            and min(shared, limit) >= reusable + WORTH_WAITING
            for other in self.running
            if not other.is_decoding and self._could_share(sequence, other)
        )

    def _num_shared(self, sequence: Sequence, other: Sequence, reusable: int) -> int:
        """How many of its first tokens a running prompt will share with `sequence`."""
        shared = shared_run(other.tokens, sequence.tokens)
        if not self._backend.needs_states:
            return shared
        shared = min(shared, self._shapes.num_reusable(sequence), other.num_prompt)
        can_add = shared >= reusable + WORTH_WAITING and not self._shapes.fixed_chunk(other)
        return saved_before(other, shared, can_add=can_add)

    def _could_share(self, sequence: Sequence, other: Sequence) -> bool:
        """Whether `sequence` may use what `other` computes."""
        is_same_salt = sequence.request.cache_salt == other.request.cache_salt
        return is_same_salt and (
            self._shapes.is_canonical(other) or not self._shapes.is_canonical(sequence)
        )

    def _fits(
        self, sequence: Sequence, held: int, running: list[Sequence], victims: list[Sequence]
    ) -> bool:
        """Whether enough cells are free, or held by prefixes that can go, for what the sequence and
        the running ones need soon, once the victims have made way. A sequence alone always fits:
        no prompt exceeds the cells."""
        if not running:
            return True
        owed = sum(other.num_pending + self._growth(other) for other in running)
        needed = sequence.num_target - held + self._growth(sequence)
        taken = self.cache.num_idle(sequence.prefix, held)  # its prefix, which then can't go
        left = sum(victim.num_cached for victim in victims)
        return self.cache.num_free + self.cache.num_cached + left - taken >= owed + needed

    def _growth(self, sequence: Sequence) -> int:
        return min(GROWTH_RESERVE, sequence.request.max_tokens - sequence.num_generated)

    def _make_room_for_decoding(self) -> None:
        """For the next cells of each decoding sequence; preempts the youngest if need be."""
        while not self.cache.make_room(
            sum(sequence.num_pending for sequence in self.running if sequence.is_decoding)
        ):
            self._preempt_youngest()

    def _preempt_youngest(self) -> None:
        youngest = self.running[-1]
        self._preempt(youngest)
        youngest.was_preempted = True

    def _preempt(self, sequence: Sequence) -> None:
        """The sequence waits again, and later goes on where it was."""
        self.running.remove(sequence)
        self._give_up_slot(sequence)
        self.waiting.append(sequence)
        self._has_changed = True

    def _give_up_slot(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        tokens = sequence.tokens[: sequence.num_shareable]
        if self._shapes.fixed_chunk(sequence):
            self.cache.distrust(sequence.slot)  # what comes after its last whole chunk
        self.cache.finish(sequence.slot, tokens)
        self.keeping.finished(Prefix(tokens, sequence.request.cache_salt))
        self.drafting.finish(sequence)
        sequence.slot, sequence.num_cached = None, 0
