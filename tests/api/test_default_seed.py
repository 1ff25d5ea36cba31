"""Which seed a request gets: its own, else the server's, else a random one."""

from typing import Any

import msgspec
import pytest

from localinfra.api.anthropic.messages import MessageRequest
from localinfra.api.deepinfra.images import NativeImageFields, native_image_request
from localinfra.api.generation.params import Defaults, SamplingFields
from localinfra.api.openai.images import ImageFields, image_request
from localinfra.engine.request import SamplingParams
from localinfra.models.entries import ImageModelEntry
from localinfra.models.sources import PackageSource

ENTRY = ImageModelEntry(source=PackageSource("none", "none"))
NOT_GIVEN: list[dict[str, Any]] = [{}, {"seed": -1}, {"seed": None}]


def of_openai(fields: dict[str, Any], default_seed: int | None) -> SamplingParams:
    return msgspec.convert(fields, SamplingFields).sampling_params(Defaults(default_seed))


def of_anthropic(fields: dict[str, Any], default_seed: int | None) -> SamplingParams:
    messages = [{"role": "user", "content": "Hi"}]
    body = msgspec.convert({"model": "m", "messages": messages, **fields}, MessageRequest)
    return body.turn(Defaults(default_seed)).params.sampling


@pytest.mark.parametrize("sampling", [of_openai, of_anthropic])
def test_texts(sampling: Any) -> None:
    for fields in NOT_GIVEN:
        drawn = sampling(fields, None)
        assert not drawn.is_reproducible and drawn.seed != sampling(fields, None).seed
        assert (sampling(fields, 7).seed, sampling(fields, 7).is_reproducible) == (7, True)
        assert (sampling(fields, 0).seed, sampling(fields, 0).is_reproducible) == (0, True)
    for default_seed in (None, 7):
        own = sampling({"seed": 0}, default_seed)
        assert (own.seed, own.is_reproducible) == (0, True)


def of_images(fields: dict[str, Any], default_seed: int | None) -> tuple[int, ...]:
    body = msgspec.convert({"prompt": "A cat", "n": 2, **fields}, ImageFields)
    return image_request(body, ENTRY, None, default_seed, "").seeds


def of_native_images(fields: dict[str, Any], default_seed: int | None) -> tuple[int, ...]:
    body = msgspec.convert({"prompt": "A cat", **fields}, NativeImageFields)
    return native_image_request(body, 2, ENTRY, None, default_seed, "").seeds


@pytest.mark.parametrize("seeds", [of_images, of_native_images])
def test_images(seeds: Any) -> None:
    for fields in NOT_GIVEN:
        assert seeds(fields, 7) == (7, 8)
        assert seeds(fields, 0) == (0, 1)
        assert seeds(fields, 4_294_967_295) == (4_294_967_295, 4_294_967_296)
        assert seeds(fields, None) != seeds(fields, None)
    assert seeds({"seed": 3}, 7) == (3, 4)
