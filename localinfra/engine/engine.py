"""The engine's thread: submit, step, cancel, close; the one place where it meets the event loop.

A step: run commands, schedule, hand over the previous samples, decode, postprocess. The event loop
is woken just before the decode, so it detokenises, matches stop strings and writes JSON while
llama.cpp computes without holding the GIL. While a GPU does, so does this thread's bookkeeping.
"""

import contextlib
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from functools import partial

from localinfra.devices import is_lost
from localinfra.engine import postprocess
from localinfra.engine.backend import Backend, DecodeFailed, DraftBackend
from localinfra.engine.generation import Generation, call, deliver_all, failure
from localinfra.engine.offloaded import Shelf
from localinfra.engine.request import EngineSettings, EngineStats, GenerationRequest, TokenEvent
from localinfra.engine.scheduler import Scheduler
from localinfra.engine.seeing import check_prompts
from localinfra.engine.sequence import Sequence
from localinfra.engine.step import Chunk, Step
from localinfra.engine.waiting import check_room
from localinfra.errors import ApiError, EngineFailed, ModelUnavailable
from localinfra.journal import Mark, StepKind
from localinfra.logs import about
from localinfra.watchdog import Pulse

logger = logging.getLogger(__name__)

# Waking the event loop takes a core from the computation for 0.2 ms. Tokens of steps shorter than
# this are handed over together: a screen refreshes no faster.
HAND_OVER_INTERVAL_S = 0.012

REST_AFTER_S = 0.05  # of idling; resting compute threads take 0.1 ms to come back

MAX_FAULTS = 3  # failed steps in a row before the backend itself is given up
CLOSE_LIMIT_S = 6.0  # for the current step to end
FAIL_WAITING_AFTER_S = 2.0  # after this, requests fail without waiting for that step


class Engine:
    """Runs one backend on a thread of its own until `close`."""

    def __init__(
        self,
        backend: Backend,
        settings: EngineSettings | None = None,
        *,
        name: str = "engine",
        shelf: Shelf | None = None,
        drafter: DraftBackend | None = None,
    ):
        """`shelf` has the prefixes that earlier engines left, and gets those of this one. `drafter`
        is a model with the same vocabulary that drafts; the engine closes it too."""
        settings = settings or EngineSettings()
        self._name = name
        self._backend = backend
        self._backends: tuple[Backend, ...] = (backend, drafter) if drafter else (backend,)
        self.most_offloaded_bytes = settings.max_offloaded
        self.max_offloaded_bytes = self.most_offloaded_bytes  # now
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._new_scheduler = partial(Scheduler, backend, settings, shelf, self._send, drafter)
        self._scheduler = self._new_scheduler()
        self._owners: dict[Sequence, Generation] = {}
        self._max_waiting = settings.max_waiting
        self._num_submitted = 0  # choices, counted on the event loop
        self._num_added = 0  # of these, added to the scheduler; counted on the engine's thread
        self._num_steps = 0
        self._outbox: dict[Generation, list[TokenEvent]] = {}  # sampled, not handed over yet
        self._is_urgent = False  # the outbox holds a first or a last token
        self._handed_over_s = 0.0
        self._closed = False  # the thread should end
        self._ended: ApiError | None = None  # why new requests are refused
        self._fault: str | None = None  # why the engine ended without `close`
        self._is_abandoned = False
        self._num_faults = 0  # failed steps in a row
        self.is_device_lost = False
        self.mark = Mark()
        self._pulse = Pulse()
        self._generations: weakref.WeakSet[Generation] = weakref.WeakSet()  # the event loop's
        self._ending = threading.Lock()  # each request is queued or refused, never lost
        self._stats = EngineStats(0, 0, 0, 0, backend.num_cells)
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)
        self._thread.start()

    @property
    def context_length(self) -> int:
        return self._backend.context_length

    @property
    def stats(self) -> EngineStats:
        return self._stats

    @property
    def fault(self) -> str | None:
        """Why this engine stopped serving without being closed; None while it serves."""
        if self._fault is None and not self._closed and not self._thread.is_alive():
            return "the engine's thread has ended"
        return self._fault

    @property
    def pulse(self) -> Pulse:
        """The thread's progress, for a watchdog."""
        return self._pulse

    @property
    def offloaded_bytes(self) -> int:
        """Host memory that prefixes outside the KV cache take, at most."""
        return self._scheduler.cache.copies.most_bytes

    def limit_offloaded(self, max_bytes: int) -> None:
        """Lets these take at most so much, from the next step on. Event loop only."""
        self.max_offloaded_bytes = max_bytes
        self._send(lambda: self._scheduler.cache.copies.limit(max_bytes))

    @property
    def num_waiting(self) -> int:
        """Choices that have no slot yet."""
        return self._num_submitted - self._num_added + len(self._scheduler.waiting)

    def check_queue(self, client: str = "") -> None:
        """Raises QueueFull if too many requests wait already, ModelUnavailable after `close`."""
        if self._ended is not None:
            raise self._ended
        check_room(self._generations, client, self._max_waiting)

    def generate(self, requests: list[GenerationRequest]) -> Generation:
        """Queues requests that are answered together, each with a prompt of 1 to `context_length`
        tokens. Raises like `check_queue` and `check_prompts`. Event loop only."""
        check_prompts(requests, self._backend)
        generation = Generation(requests, self._retire, self._send_if_alive)
        with self._ending:
            self.check_queue(generation.group.client)
            self._num_submitted += generation.num_choices
            self._generations.add(generation)
            self._send(lambda: self._add(generation))
        return generation

    def _send(self, command: Callable[[], None]) -> None:
        """Queues `command` to run on the engine's thread before its next step. Any thread."""
        self._commands.put(command)

    def close(self, limit_s: float = CLOSE_LIMIT_S) -> None:
        """Fails running requests, ends the thread and frees the backends. Idempotent. A thread that
        does not end within the limit is left behind; it frees the backends when it does end."""
        if not self._closed:
            self._closed = True
            self._send(lambda: None)
        if not self._is_abandoned:
            self._thread.join(min(limit_s, FAIL_WAITING_AFTER_S))
            if self._thread.is_alive():
                self._refuse(ModelUnavailable("The server is shutting down."))
                self._thread.join(max(0.0, limit_s - FAIL_WAITING_AFTER_S))
        if self._thread.is_alive():
            logger.error("%s: the engine's thread did not end and is left behind", self._name)

    def abandon(self, reason: str) -> None:
        """Gives up a hung thread: fails all requests, refuses new ones. Event loop only."""
        self._fault = reason
        self._is_abandoned = self._closed = True
        self._refuse(EngineFailed(f"The engine was given up: {reason}."))

    def _refuse(self, error: ApiError) -> None:
        """Fails all requests and refuses new ones, without the engine's thread."""
        with self._ending:
            self._ended = self._ended or error
            generations = list(self._generations)
        for generation in generations:
            call(generation.loop, generation.fail, error)

    def _send_if_alive(self, command: Callable[[], None]) -> bool:
        """Like `_send`; False once nobody would run it."""
        with self._ending:
            if self._ended is None:
                self._send(command)
            return self._ended is None

    # The engine's thread from here on.

    def _retire(self, sequence: Sequence) -> None:
        """Removes a sequence in any state; its slot is free at once."""
        if not sequence.finished:
            sequence.finished = True
            self._scheduler.remove(sequence)
            del self._owners[sequence]

    def _run(self) -> None:
        reason: ApiError = ModelUnavailable("The server is shutting down.")
        try:
            while not self._closed:
                try:
                    self._round()
                except BaseException as error:  # Rust panics are not Exceptions
                    self._start_over(error)
        except BaseException as error:
            logger.exception("%s: the engine's thread died", self._name)
            self._fault = f"the engine stopped: {error!r:.300}"
            reason = ModelUnavailable(
                "The engine has just failed; try again, and it will be reloaded.", "model", 1
            )
            self._fail_all(self._owners, EngineFailed("The engine failed; the log has details."))
        finally:
            with self._ending:
                self._closed = True
                self._ended = self._ended or reason
                self._refuse_commands()
            with contextlib.suppress(BaseException):  # the scheduler may be in pieces
                self._hand_over()
            if self._fault is None and not self._is_abandoned:
                self._leave_prefixes(reason)
            self._fail_all(self._owners, reason)
            self._stats = EngineStats(0, 0, self._num_steps, 0, self._backend.num_cells)
            for backend in self._backends:
                backend.close()

    def _leave_prefixes(self, reason: ApiError) -> None:
        """Ends running requests, and leaves what they and others have computed to the shelf."""
        try:
            self._fail(list(self._owners), reason)
            self._scheduler.keeping.leave()
        except BaseException:  # closing goes on
            logger.exception("%s: prefixes could not be kept", self._name)

    def _round(self) -> None:
        self._take_commands()
        if not self._scheduler.is_idle:
            self._pulse = self._pulse.next()
            self._step()
            self.mark.note(StepKind.KEEP)
            self._scheduler.keeping.step(time.monotonic())
            self._num_faults = 0
        if self._scheduler.is_idle:
            self._hand_over()  # no next step will do it

    def _start_over(self, error: BaseException) -> None:
        """Recovers from a failed step: fails the requests that had slots, whose contents are
        unknown now, and keeps those that wait. Reraises after MAX_FAULTS failures in a row, and if
        the device is lost."""
        self._num_faults += 1
        self.is_device_lost = is_lost(error)
        if self._num_faults >= MAX_FAULTS or self.is_device_lost:
            raise error
        logger.error("%s: a step failed: %r", self._name, error, exc_info=error)
        waiting = [sequence for sequence in self._scheduler.waiting if not sequence.finished]
        lost = self._owners.keys() - waiting
        for backend in self._backends:
            backend.clear()
        self._scheduler = self._new_scheduler(self._scheduler.turns)
        self._scheduler.cache.copies.limit(self.max_offloaded_bytes)
        self._fail_all(lost, EngineFailed(f"A step of the engine failed: {error!r:.300}"))
        for sequence in waiting:
            if not sequence.finished:  # finished: other choices of its request had slots
                sequence.slot, sequence.num_cached = None, 0
                self._scheduler.add(sequence)
        self._hand_over()  # updates the stats too

    def _take_commands(self) -> None:
        """Runs the queued commands; sleeps while there is nothing to do."""
        if self._scheduler.is_idle and not self._closed:
            self._next_command()()
        while not self._commands.empty():
            self._commands.get()()

    def _refuse_commands(self) -> None:
        """Runs the last commands, so that their requests get an answer too."""
        while not self._commands.empty():
            with contextlib.suppress(BaseException):  # as above
                self._commands.get()()

    def _next_command(self) -> Callable[[], None]:
        self._pulse = self._pulse.idle()
        self.mark.note(StepKind.IDLE)
        try:
            return self._commands.get(timeout=REST_AFTER_S)
        except queue.Empty:
            try:
                with self.mark.during(StepKind.LOAD):  # a first rest may end it
                    self._backend.rest()
            except Exception:  # harmless here: only other programs lose CPU time
                logger.exception("%s: the compute threads could not rest", self._name)
            return self._command_while_keeping()
        finally:
            self._pulse = self._pulse.next()

    def _command_while_keeping(self) -> Callable[[], None]:
        """Copies prefixes that rest until the next command."""
        while (wait_s := self._scheduler.keeping.step(time.monotonic())) is not None:
            with contextlib.suppress(queue.Empty):
                return self._commands.get(timeout=wait_s)
        return self._commands.get()

    def _add(self, generation: Generation) -> None:
        self._num_added += generation.num_choices
        try:
            self._add_sequences(generation)
        except BaseException as error:  # from the grammar, or out of memory
            extra = about(generation.group.request_id)
            logger.exception("%s: a request could not be added", self._name, extra=extra)
            self._fail(generation.sequences, failure(error))
            call(generation.loop, generation.fail, failure(error))  # it may have no sequences yet

    def _add_sequences(self, generation: Generation) -> None:
        for request in generation.requests:
            first: Sequence | None = None
            for _ in range(request.params.num_choices):
                sequence = Sequence(request, len(generation.sequences), first, generation.group)
                first = first or sequence
                generation.sequences.append(sequence)
                self._owners[sequence] = generation
                self._scheduler.add(sequence)

    def _step(self) -> None:
        """Decodes one batch and puts an event per sampled token into the outbox."""
        self.mark.note(StepKind.SCHEDULE)
        self._num_steps += 1
        step = self._scheduler.schedule(self._deliver)
        if step.chunks:  # else all were preempted, or have nothing to compute
            self._decode(step)
            self._postprocess(step)

    def _deliver(self, step: Step) -> None:
        """Hands over the previous samples, unless they can wait one more step."""
        is_due = time.perf_counter() - self._handed_over_s >= HAND_OVER_INTERVAL_S
        if is_due or self._is_urgent or step.num_prompt_tokens:
            self._hand_over()

    def _decode(self, step: Step) -> None:
        self._backend.set_threads(step.threads)
        started_s = time.perf_counter()
        self._pulse = self._pulse.computing()
        self.mark.note(StepKind.PREFILL if step.num_prompt_tokens else StepKind.DECODE)
        self._backend.decode(step.batch)
        self._scheduler.advance(step)
        postprocess.prepare(self._backend, step)
        self._backend.wait()
        self._pulse = self._pulse.next()
        self._scheduler.observe(step, time.perf_counter() - started_s)

    def _postprocess(self, step: Step) -> None:
        self.mark.note(StepKind.SAMPLE)
        for chunk in step.chunks:
            generation = self._owners.get(chunk.sequence)
            if generation is None:
                continue  # a choice of the same request failed above
            if events := self._events(chunk):
                self._outbox.setdefault(generation, []).extend(events)

    def _events(self, chunk: Chunk) -> list[TokenEvent]:
        """Samples. An error in that fails the request only, one while moving cells the step."""
        sequence = chunk.sequence
        events: list[TokenEvent] = []
        error: ApiError | None = None
        try:
            postprocess.sample(self._backend, chunk, events)
        except BaseException as caught:  # a panic in llguidance is not an Exception
            error = failure(caught)
            if not isinstance(caught, (ApiError, DecodeFailed)):
                extra = about(sequence.group.request_id)
                logger.exception("%s: a request failed", self._name, extra=extra)
        self._scheduler.accept(chunk)
        if error:
            self._fail([sequence], error)
            return []
        is_finished = bool(events) and events[-1].finish_reason is not None
        self._is_urgent |= is_finished or (bool(events) and events[0].num_generated == 1)
        if is_finished:
            self._retire(sequence)
        return events

    def _hand_over(self) -> None:
        """Wakes the event loop once for all sampled tokens, and updates `stats`."""
        outbox, self._outbox = self._outbox, {}
        self._is_urgent = False
        self._handed_over_s = time.perf_counter()
        self._stats = self._scheduler.stats(self._num_steps)
        for loop in {generation.loop for generation in outbox}:
            parcels = [(owner, events) for owner, events in outbox.items() if owner.loop is loop]
            call(loop, deliver_all, parcels)

    def _fail(self, sequences: Iterable[Sequence], error: Exception) -> None:
        """Fails the requests of these sequences."""
        for generation in {self._owners[sequence] for sequence in sequences}:
            call(generation.loop, generation.fail, error)
            for sequence in generation.sequences:
                self._retire(sequence)

    def _fail_all(self, sequences: Iterable[Sequence], error: Exception) -> None:
        """Like `_fail`, but without touching the scheduler, which may be broken."""
        for generation in {self._owners[sequence] for sequence in sequences}:
            call(generation.loop, generation.fail, error)
            for sequence in generation.sequences:
                sequence.finished = True
                self._owners.pop(sequence, None)
