"""Steps on a GPU: streams and prompts take turns, and nobody waits longer for it."""

import itertools
import statistics

import numpy as np
import pytest
from fakes import FakeBackend
from numpy.typing import NDArray

from localinfra.engine import postprocess
from localinfra.engine.backend import Batch
from localinfra.engine.policy.idle_cores import IdleCores
from localinfra.engine.request import (
    EngineSettings,
    GenerationParams,
    GenerationRequest,
    SamplingParams,
    TokenEvent,
)
from localinfra.engine.scheduler import Scheduler
from localinfra.engine.sequence import Sequence
from localinfra.engine.step import Step

GREEDY = GenerationParams(SamplingParams(temperature=0))
USUAL_S = 0.008  # a step of streams


class Endless(FakeBackend):
    """Keeps no cells, which takes long for prompts like these. Its texts don't end."""

    def decode(self, batch: Batch) -> None:
        self.is_computing = True

    def copy(self, source: int, target: int, start: int, stop: int) -> None: ...

    def drop(self, slot: int, start: int, stop: int | None = None) -> None: ...

    def logits(self, row: int) -> NDArray[np.float32]:
        assert not self.is_computing
        return np.array([0, 1, 0], np.float32)


class Device:
    """A scheduler on a machine whose steps take what they take on a GPU."""

    def __init__(self, *, is_on_device: bool = True, batch_size: int = 512, token_s: float = 6e-5):
        """`token_s`: of a prompt, beside what a step takes."""
        self.token_s = token_s
        self.backend = Endless(
            num_cells=20_000,
            num_sequences=8,
            batch_size=batch_size,
            context_length=10_000,
            is_on_device=is_on_device,
        )
        self.scheduler = Scheduler(self.backend, EngineSettings(prompt_lookup=False))
        self.steps: list[Step] = []
        self.seconds: list[float] = []
        self.took: dict[Sequence, list[float]] = {}  # between the tokens of each

    def submit(self, num_prompt: int, max_tokens: int) -> Sequence:
        number = len(self.took)
        prompt = [(number + at) % 47 for at in range(num_prompt)]
        sequence = Sequence(GenerationRequest(prompt, max_tokens, GREEDY), 0)
        self.took[sequence] = [0.0]
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> Step:
        step = self.scheduler.schedule()
        self.backend.decode(step.batch)
        self.scheduler.advance(step)
        self.backend.wait()
        num_rows = len(step.batch) - step.num_prompt_tokens
        seconds = (USUAL_S + 5e-5 * num_rows) * (num_rows > 0)
        seconds += (0.005 + self.token_s * step.num_prompt_tokens) * (step.num_prompt_tokens > 0)
        self.scheduler.observe(step, seconds)
        self.steps.append(step)
        self.seconds.append(seconds)
        for took in self.took.values():
            took[-1] += seconds
        for chunk in step.chunks:
            events: list[TokenEvent] = []
            postprocess.sample(self.backend, chunk, events)
            self.scheduler.accept(chunk)
            if events:
                self.took[chunk.sequence].append(0.0)
            if events and events[-1].finish_reason is not None:
                self.scheduler.remove(chunk.sequence)
        return step


def beside_streams(device: Device) -> tuple[list[Step], list[float]]:
    """The steps while a long prompt is read beside four streams, and their gaps."""
    streams = [device.submit(8 + number, 5000) for number in range(4)]
    while not all(sequence.num_generated > 20 for sequence in streams):
        device.step()
    first, before = len(device.steps), [len(device.took[each]) for each in streams]
    prompt = device.submit(4000, 1)
    while prompt.num_generated == 0:
        device.step()
    gaps = [
        gap
        for sequence, start in zip(streams, before, strict=True)
        for gap in device.took[sequence][start:-1]
    ]
    return device.steps[first:], gaps


def test_a_step_is_of_streams_or_of_prompts_in_turn() -> None:
    steps, _ = beside_streams(Device())
    reads = [step.num_prompt_tokens > 0 for step in steps]
    for step in steps:
        assert step.num_prompt_tokens in (0, len(step.batch))
    assert not any(first and second for first, second in itertools.pairwise(reads))
    assert {len(step.batch) for step in steps if not step.num_prompt_tokens} == {4}
    assert sum(reads) >= 0.4 * len(reads), "prompts have their turns"


def test_only_the_last_of_a_prompts_steps_gives_logits() -> None:
    steps, _ = beside_streams(Device())
    *before, last = [step for step in steps if step.num_prompt_tokens]
    assert len(before) > 4 and all(not step.batch.output_rows for step in before)
    assert len(last.batch.output_rows) == 1


def test_streams_wait_no_longer_than_in_mixed_steps() -> None:
    steps, gaps = beside_streams(Device())
    mixed_steps, mixed_gaps = beside_streams(Device(is_on_device=False))
    assert max(gaps) <= 8 * USUAL_S and max(gaps) <= 1.1 * max(mixed_gaps)
    assert statistics.fmean(gaps) <= 1.1 * statistics.fmean(mixed_gaps)
    # The prompt is read about as soon: its steps don't compute rows of streams.
    assert sum(gaps) <= 1.25 * sum(mixed_gaps)
    assert len(steps) <= 2.5 * len(mixed_steps)


def test_larger_batches_change_nothing_for_running_streams() -> None:
    """Their gaps bound the steps of prompts, however large these might be."""
    usual, large = (beside_streams(Device(batch_size=size)) for size in (512, 2048))
    assert large[1] == usual[1]
    assert [len(step.batch) for step in large[0]] == [len(step.batch) for step in usual[0]]


@pytest.mark.parametrize(
    ("batch_size", "token_s", "is_on_device", "sizes"),
    [
        (512, 6e-5, True, [512] * 8 + [104]),
        # The first one shows what tokens cost.
        (2048, 6e-5, True, [512, 2048, 1640]),
        # Who comes meanwhile waits no longer than for what is read in 0.75 s, or for 512 tokens.
        (2048, 6e-4, True, [512] + [1024] * 3 + [616]),
        (2048, 5e-3, True, [512] * 8 + [104]),
        # Layers on the CPU are copied to the GPU in each step, whatever its size.
        (2048, 5e-3, False, [2048] * 2 + [104]),
    ],
)
def test_without_streams_prompts_are_read_in_steps_as_large_as_are_no_stall(
    batch_size: int, token_s: float, is_on_device: bool, sizes: list[int]
) -> None:
    device = Device(batch_size=batch_size, token_s=token_s, is_on_device=is_on_device)
    prompt = device.submit(4200, 1)
    while prompt.num_generated == 0:
        device.step()
    assert [len(step.batch) for step in device.steps] == sizes


def test_threads_are_not_adapted_where_a_gpu_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(cores: IdleCores) -> float:
        raise AssertionError("nobody needs to know")

    for name in ("at_once", "of_late"):
        monkeypatch.setattr(IdleCores, name, asked)
    device = Device()
    device.submit(8, 30)
    steps = [device.step() for _ in range(30)]
    assert {step.threads for step in steps} == {device.backend.max_threads}
