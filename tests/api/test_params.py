"""Each sampling parameter that a request can give comes to the sampler."""

from typing import Any

import msgspec
import pytest

from localinfra.api.generation.params import Defaults, SamplingFields
from localinfra.engine.request import SamplingParams
from localinfra.models.sampling import SamplingSettings

# A half is in the range of every other.
VALUES: dict[str, Any] = {"top_k": 7, "logit_bias": {5: 2.0}, "seed": 3}


@pytest.mark.parametrize(
    "name", [n for n in SamplingParams.__struct_fields__ if n in SamplingFields.__struct_fields__]
)
def test_a_parameter_is_handed_on(name: str) -> None:
    value = VALUES.get(name, 0.5)
    fields = msgspec.convert({name: value}, SamplingFields)
    assert getattr(fields.sampling_params(Defaults()), name) == value


def test_a_model_has_defaults_of_its_own_and_the_request_wins() -> None:
    defaults = Defaults(sampling=SamplingSettings(temperature=0.5, top_k=40, min_p=0.1))
    params = SamplingFields(temperature=0.9, top_k=-1).sampling_params(defaults)
    assert (params.temperature, params.top_k, params.min_p, params.top_p) == (0.9, 0, 0.1, 1.0)
    usual = SamplingParams(seed=3, is_reproducible=True)
    assert SamplingFields(seed=3).sampling_params(Defaults()) == usual
