"""Which measured types win, from plain figures."""

from pathlib import Path
from typing import Any

import pytest
from models.tiny_gguf import tiny_llama

from localinfra.models.gguf.reader import read_header
from localinfra.optimize import choose
from localinfra.optimize.choose import Loss, MeasuredType, Speed

ORIGINAL = MeasuredType("q4_1", 98_000_000, Speed(300, 120, 200), Loss(0.0026, 19.59, 0.0))


def candidate(
    prompt: float = 600,
    one: float = 130,
    streams: float = 270,
    kl: float = 0.0029,
    perplexity: float = 19.60,
    error: float = 0.05,
    type: str = "q8_0",
) -> MeasuredType:
    return MeasuredType(type, 145_000_000, Speed(prompt, one, streams), Loss(kl, perplexity, error))


def test_the_fastest_of_the_lossless_ones_wins() -> None:
    near, faster, lossy = (
        candidate(type="near"),
        candidate(one=150, type="faster"),
        candidate(one=900, kl=0.26, perplexity=23.0, type="lossy"),
    )
    assert choose.winner([near, faster, lossy], ORIGINAL) == faster
    assert "FASTER is 1.43 times as fast as Q4_1" in choose.reason([near, faster], ORIGINAL)


@pytest.mark.parametrize(
    "kl", [0.0026 * 1.5 + 0.0001, 0.0026 + 0.0011], ids=["1.5 times", "0.1 % of perplexity"]
)
def test_a_candidate_too_far_from_f16_is_not_lossless(kl: float) -> None:
    assert not choose.is_lossless(candidate(kl=kl), ORIGINAL)
    assert "no type that is faster" in choose.reason([candidate(kl=kl)], ORIGINAL)


def test_perplexity_must_stay_even_if_the_original_diverges_far() -> None:
    rough = MeasuredType("q4_1", 1, ORIGINAL.speed, Loss(0.02, 19.59, 0.0))
    assert choose.is_lossless(candidate(kl=0.0205), rough)
    assert not choose.is_lossless(candidate(kl=0.0250), rough)


def test_perplexity_counts_against_a_candidate_only_beyond_its_error() -> None:
    assert choose.is_lossless(candidate(perplexity=19.73, error=0.05), ORIGINAL)
    assert not choose.is_lossless(candidate(perplexity=19.73, error=0.01), ORIGINAL)
    assert not choose.is_lossless(candidate(perplexity=19.45, error=0.01), ORIGINAL)


def test_an_original_in_f16_has_no_lossless_candidate() -> None:
    original = MeasuredType("f16", 1, ORIGINAL.speed, Loss(0.0, 19.55, 0.0))
    assert not choose.is_lossless(candidate(kl=0.0013), original)


def test_a_small_gain_is_not_worth_a_file() -> None:
    assert choose.winner([candidate(330, 130, 215)], ORIGINAL) is None
    assert "no other type is enough faster" in choose.reason([candidate(330, 130, 215)], ORIGINAL)


@pytest.mark.parametrize("slow", [{"prompt": 250}, {"one": 100}, {"streams": 165}])
def test_no_kind_of_work_may_become_much_slower(slow: dict[str, Any]) -> None:
    fast: dict[str, Any] = {"prompt": 900.0, "one": 360.0, "streams": 600.0}
    assert choose.winner([candidate(**fast)], ORIGINAL)
    assert choose.winner([candidate(**{**fast, **slow})], ORIGINAL) is None


def test_only_types_with_more_bits_than_the_original_can_be_lossless(tmp_path: Path) -> None:
    header = read_header(tiny_llama().write(tmp_path / "tiny.gguf"))
    assert choose.main_type(header) == "f32"
    assert choose.candidates(header, lossless_only=True) == ()
    assert choose.candidates(header, lossless_only=False) == ("q8_0", "q4_0", "f16")


def test_sizes_are_estimated(tmp_path: Path) -> None:
    path = tiny_llama().write(tmp_path / "tiny.gguf")
    header = read_header(path)
    assert choose.size_as(header, "f32") == pytest.approx(path.stat().st_size, rel=0.01)
    assert choose.size_as(header, "q8_0") < choose.size_as(header, "f16") < path.stat().st_size
