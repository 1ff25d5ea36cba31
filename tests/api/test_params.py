"""Each sampling parameter that a request can give comes to the sampler."""

from typing import Any

import msgspec
import pytest

from localinfra.api.generation.params import SamplingFields
from localinfra.engine.request import SamplingParams

# A half is in the range of every other.
VALUES: dict[str, Any] = {"top_k": 7, "logit_bias": {5: 2.0}, "seed": 3}


@pytest.mark.parametrize(
    "name", [n for n in SamplingParams.__struct_fields__ if n in SamplingFields.__struct_fields__]
)
def test_a_parameter_is_handed_on(name: str) -> None:
    value = VALUES.get(name, 0.5)
    fields = msgspec.convert({name: value}, SamplingFields)
    assert getattr(fields.sampling_params(None), name) == value
