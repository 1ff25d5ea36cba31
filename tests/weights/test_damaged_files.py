"""Real GGUF files with damage, loaded and asked as the server would, in a process of their own.

A few with their weights. Thousands with zeros in their place, as a hole of the file, since what is
damaged is the header: all of it is there, and checked. llama.cpp loads what passes, and reads a
prompt and answers three tokens; each fiftieth also answers chats, one of them in JSON. All that
with weights, for thousands of files, is `scripts/fuzz --gguf`; it makes the same mutants.
"""

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from fuzzing.gguf import Copies, Mutant, RealFile, outcomes, smollm2


@pytest.fixture(scope="module")
def real() -> RealFile:
    return RealFile(smollm2())


def test_every_part_of_a_header_is_damaged(real: RealFile) -> None:
    kinds = {"count", "type", "text", "number", "token", "items", "template", "tensor"}
    assert real.by_kind.keys() == kinds
    assert len(real.by_kind["token"]) > 90_000  # tokens and merges
    names = " ".join(real.mutant(1, number).name for number in range(300))
    assert all(kind in names for kind in {*kinds, "weights", "cut"})


def test_damage_in_place_is_taken_back(real: RealFile, tmp_path: Path) -> None:
    before, copies = real.path.read_bytes(), Copies(real, tmp_path)
    with copies.having(Mutant("", ((0, 4, b"abcd"), (4, 4, b"\0" * 4)))) as path:
        assert path.read_bytes()[:8] == b"abcd\0\0\0\0"
    assert path.read_bytes() == before


def test_damage_of_another_size_leaves_the_weights_where_they_belong(
    real: RealFile, tmp_path: Path
) -> None:
    """Behind the header, at a multiple of 32."""
    template = real.by_kind["template"][0]
    mutant = Mutant("", ((template.at, template.size, b"\0" * 8),))
    with Copies(real, tmp_path).having(mutant) as path:
        found, whole = path.read_bytes(), real.path.read_bytes()
    begin = -(-len(real.header) // 32) * 32
    assert found.endswith(whole[begin:]) and (len(found) - len(whole)) % 32 == 0
    assert found[template.at : template.at + 8] == b"\0" * 8
    with Copies(real, tmp_path, has_weights=False).having(mutant) as path:
        assert path.read_bytes() == found[: len(found) - len(whole) + begin].ljust(
            len(found), b"\0"
        )


def test_a_file_without_weights_is_as_long_and_takes_the_disk_of_its_header(
    real: RealFile, tmp_path: Path
) -> None:
    copies = Copies(real, tmp_path, has_weights=False)
    for mutant in (Mutant("", ((0, 4, b"GGUF"),)), Mutant("", (), real.size // 2)):
        with copies.having(mutant) as path:
            status = path.stat()
            assert path.read_bytes().startswith(real.header)
            assert status.st_size == (mutant.size or real.size)
            assert status.st_blocks * 512 < 2 * len(real.header)


KINDLY = ("loaded", "refused", "failed")


def check(real: RealFile, folder: Path, number: int) -> None:
    ends = {at: end for at, end, _ in outcomes(real, 1, iter(range(number)), folder)}
    assert {at: end for at, end in ends.items() if not end.startswith(KINDLY)} == {}


def check_headers(real: RealFile, folder: Path, number: int) -> None:
    """In two children at the same time."""

    def half(part: int) -> dict[int, str]:
        own = folder / str(part)
        own.mkdir()
        of_headers = (at for at in count(part, 2) if real.mutant(1, at).name != "weights")
        found = outcomes(real, 1, islice(of_headers, number // 2), own, wholly_every=50)
        return {at: end for at, end, _ in found}

    with ThreadPoolExecutor(2) as threads:
        ends = {at: end for found in threads.map(half, (0, 1)) for at, end in found.items()}
    assert len(ends) == number
    assert {at: end for at, end in ends.items() if end not in KINDLY} == {}
    counts = Counter(ends.values())
    assert counts["loaded"] > number / 10 and counts["refused"] > number / 2, counts


def test_a_damaged_file_is_refused_or_harmless(real: RealFile, tmp_path: Path) -> None:
    check(real, tmp_path, 5)


@pytest.mark.slow
def test_damaged_files_are_refused_or_harmless(real: RealFile, tmp_path: Path) -> None:
    check(real, tmp_path, 40)


@pytest.mark.slow
def test_damaged_files_with_another_tokenizer_are_too(gemma_file: Path, tmp_path: Path) -> None:
    check(RealFile(gemma_file), tmp_path, 15)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thousands_of_damaged_headers_are_refused_or_harmless(
    real: RealFile, tmp_path: Path
) -> None:
    check_headers(real, tmp_path, 5000)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_hundreds_with_a_vocabulary_five_times_as_large_are_too(
    gemma_file: Path, tmp_path: Path
) -> None:
    check_headers(RealFile(gemma_file), tmp_path, 300)
