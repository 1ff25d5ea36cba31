"""A model's own layers that draft from its hidden states, of which only the last ones are kept."""

from typing import Any

import pytest
from engine.test_draft_model import Machine, prompts, request
from fake_mtp import FakeHidden, FakeMtp

from localinfra.engine.drafting import Drafting
from localinfra.engine.request import SamplingParams
from localinfra.engine.sequence import Sequence


def predicting(kept: int, noise: float = 0.0) -> tuple[Machine, FakeMtp]:
    """A model with such layers, that keeps so many hidden states."""
    size: dict[str, Any] = {"num_cells": 4000, "context_length": 1000}
    backend = FakeHidden(kept, max_output_rows=64, **size)
    return Machine(model := FakeMtp(backend, noise, **size), backend=backend), model


@pytest.mark.parametrize("kept", [1, 6, 1000])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_layers_that_draft_change_no_token(kept: int, noise: float) -> None:
    requests = [request(60, SamplingParams(seed=3), prompt) for prompt in prompts(5)]
    alone = [Machine(None).texts(each)[0] for each in requests]
    machine, _ = predicting(kept, noise)
    assert machine.texts(*requests) == alone
    assert machine.scheduler.drafting.num_accepted > 40


def test_of_a_text_they_read_the_end_whose_hidden_states_are_kept() -> None:
    machine, model = predicting(kept=20)
    machine.texts(request(200))  # shows what drafts are worth
    accepted = machine.scheduler.drafting.num_accepted
    for _ in range(2):  # the second time, its prefix is not computed again
        model.num_late = 0
        machine.texts(request(60, prompt=[*range(48)] * 4))
        assert 20 < model.num_late < 90
        assert machine.scheduler.drafting.num_accepted > accepted + 20
        accepted = machine.scheduler.drafting.num_accepted


def test_they_draft_again_after_the_cells_were_rearranged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of the text was read: its hidden states are gone then."""
    monkeypatch.setattr(Drafting, "_is_worth_reading", lambda *_: True)
    machine, _ = predicting(kept=1000)
    text = request(200, prompt=[*range(48)] * 4)
    sequence, has_cut_reading = Sequence(text, 0), False
    machine.scheduler.add(sequence)
    while not machine.scheduler.is_idle:
        machine.step()
        if machine.num_steps % 9 == 0 and machine.scheduler.running:
            has_cut_reading |= bool(machine.scheduler.drafting._reading)
            machine.scheduler.cache.relay()
    assert [sequence.tokens[sequence.num_prompt :]] == Machine(None).texts(text)
    assert machine.scheduler.drafting.num_accepted > 20 and has_cut_reading
