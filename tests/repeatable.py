"""Requests without a seed are sampled as in the run before: no test fails by a rare token."""

import random

import pytest

from localinfra.api.generation import params


@pytest.fixture(autouse=True)
def repeatable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(request.node.nodeid)
    monkeypatch.setattr(params, "random_seed", chance.getrandbits)
