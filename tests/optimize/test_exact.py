"""4- and 5-bit blocks converted to 8 bits: exactly if possible, else nearly."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from localinfra.optimize import exact

Q4_0, Q4_1, Q5_0, Q5_1 = 2, 3, 6, 7


def random_blocks(type: int, count: int, seed: int = 0) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    blocks = np.zeros(count, exact.LAYOUTS[type])
    blocks["d"] = rng.uniform(0.001, 0.02, count) * rng.choice([-1, 1], count)
    blocks["low"] = rng.integers(0, 256, (count, 16))
    if "high" in (blocks.dtype.names or ()):
        blocks["high"] = rng.integers(0, 1 << 32, count)
    if "m" in (blocks.dtype.names or ()):
        blocks["m"] = -blocks["d"].astype(np.float32) * rng.uniform(4, 12, count)
    return blocks


def weights(blocks: NDArray[Any]) -> NDArray[np.float32]:
    step, least, levels = exact.read(blocks)
    return least[:, None] + step[:, None] * levels


def weights_of_q8_0(blocks: NDArray[Any]) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = blocks["d"].astype(np.float32)[:, None] * blocks["q"]
    return scaled


def plain_q8_0(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The result of a quantizer that sees only the numbers."""
    scale = (np.abs(values).max(axis=1) / 127).astype(np.float16).astype(np.float32)[:, None]
    rounded: NDArray[np.float32] = scale * np.rint(values / scale)
    return rounded


@pytest.mark.parametrize("type", [Q4_0, Q5_0])
def test_weights_that_are_multiples_of_a_scale_are_kept_exactly(type: int) -> None:
    blocks = random_blocks(type, 500)
    assert np.array_equal(weights_of_q8_0(exact.as_q8_0(blocks)), weights(blocks))


@pytest.mark.parametrize(("type", "gain"), [(Q4_1, 4), (Q5_1, 1.2)])
def test_weights_with_a_minimum_move_less_than_by_plain_rounding(type: int, gain: float) -> None:
    blocks = random_blocks(type, 2000)
    original = weights(blocks)

    def error(values: NDArray[np.float32]) -> float:
        return float(((values - original) ** 2).mean())

    made, plain = weights_of_q8_0(exact.as_q8_0(blocks)), plain_q8_0(original)
    assert error(made) * gain < error(plain)
    worst = np.abs(made - original).max(axis=1) / np.abs(original).max(axis=1)
    assert worst.max() < 1 / 127  # at worst half a step of rounding and F16's error


@given(
    st.sampled_from([Q4_0, Q4_1, Q5_0, Q5_1]),
    st.floats(-1, 1, width=16), st.floats(-1, 1, width=16), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_every_block_stays_within_a_step_of_its_weights(
    type: int, d: float, m: float, bits: int
) -> None:
    block = random_blocks(type, 1, bits)
    block["d"] = d
    if "m" in (block.dtype.names or ()):
        block["m"] = m
    original = weights(block)
    made = weights_of_q8_0(exact.as_q8_0(block))
    # Subnormal scales of F16 have steps of 6e-8.
    assert np.abs(made - original).max() <= np.abs(original).max() / 127 + 127 * 2.0**-24


def test_damaged_scales_affect_only_their_block() -> None:
    blocks = random_blocks(Q4_1, 4)
    blocks["d"][1], blocks["m"][2] = np.nan, np.inf
    made = exact.as_q8_0(blocks)[[0, 3]]
    assert np.allclose(weights_of_q8_0(made), weights(blocks[[0, 3]]), atol=1e-2)
