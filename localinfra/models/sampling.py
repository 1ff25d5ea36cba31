"""Sampling parameters in models.toml and GGUF files, and the ranges of each, also in requests."""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(gt=0, le=1)]
MinP = Annotated[float, Meta(ge=0, le=1)]
TopK = Annotated[int, Meta(ge=0, lt=1000)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
RepetitionPenalty = Annotated[float, Meta(ge=0.01, le=5)]


class SamplingSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A model's own values, or a request's. None: not given."""

    temperature: Temperature | None = None  # 0: always the likeliest token
    top_p: TopP | None = None  # sample from the likeliest tokens with this probability together
    min_p: MinP | None = None  # drop tokens below this share of the likeliest one's probability
    top_k: TopK | None = None  # sample from this many of the likeliest tokens; 0: from all
    presence_penalty: Penalty | None = None  # subtracted from the logits of generated tokens
    # subtracted from the logits of generated tokens, as often as they occur
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None  # divides logits of tokens that occurred

    @property
    def given(self) -> dict[str, float]:
        """The parameters that have a value."""
        values = ((name, getattr(self, name)) for name in SamplingSettings.__struct_fields__)
        return {name: value for name, value in values if value is not None}


# llama-model.cpp, llama_model_meta_key_str. The rest of its keys name samplers that are not here.
GGUF_KEYS = {
    "temperature": "general.sampling.temp",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "top_k": "general.sampling.top_k",
    "repetition_penalty": "general.sampling.penalty_repeat",
}


def recommended_in(metadata: Mapping[str, object]) -> SamplingSettings | None:
    """The recommendation of a GGUF file's authors, if any, without values beyond their range."""
    found = SamplingSettings()
    for name, key in GGUF_KEYS.items():
        value = metadata.get(key)
        if isinstance(value, float):
            value = float(f"{value:.6g}")  # files have float32: 0.6 reads as 0.60000002
        try:
            field = msgspec.convert({name: value}, SamplingSettings)
        except msgspec.ValidationError:
            continue
        found = msgspec.structs.replace(found, **field.given)
    return found if found.given else None
