"""Headers are checked once for each content of a file."""

import os
from pathlib import Path

import pytest
from models.tiny_gguf import tiny_llama

from localinfra.models import known_headers as known
from localinfra.models.gguf.header import BadGguf, GgufHeader
from localinfra.models.gguf.reader import read_header
from localinfra.models.known_headers import checked_header


@pytest.fixture(autouse=True)
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The files that were read anew, in a cache of the test's own."""
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path / "cache"))
    found: list[Path] = []

    def read(path: Path) -> GgufHeader:
        found.append(path)
        return read_header(path)

    monkeypatch.setattr(known, "read_anew", read)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    tiny_llama().write(path)
    return path


def test_a_header_is_read_once_and_stays_the_same(file: Path, reads: list[Path]) -> None:
    assert checked_header(file) == checked_header(file) == read_header(file)
    assert reads == [file]


def test_a_changed_file_is_checked_anew(file: Path, reads: list[Path]) -> None:
    checked_header(file)
    data = file.read_bytes()
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    file.write_bytes(b"GGUF" + bytes(len(data) - 4))
    os.utime(file, ns=times)  # of the same size and age
    with pytest.raises(BadGguf):
        checked_header(file)
    file.write_bytes(data)
    assert checked_header(file) == read_header(file)
    assert reads == [file] * 3


def test_a_file_put_in_its_place_is_checked_anew(file: Path, reads: list[Path]) -> None:
    checked_header(file)
    file.with_suffix(".other").write_bytes(b"<html>")
    file.with_suffix(".other").replace(file)
    with pytest.raises(BadGguf, match="web page"):
        checked_header(file)
    file.unlink()
    with pytest.raises(BadGguf, match="No such file"):
        checked_header(file)


def test_other_checks_read_anew(
    file: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked_header(file)
    monkeypatch.setattr(known, "CHECKS", ("reader",))  # as after an update
    checked_header(file)
    assert reads == [file] * 2


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"header": {}, "files": []}', b"\xff"])
def test_what_was_kept_may_be_damaged(file: Path, reads: list[Path], content: bytes) -> None:
    checked_header(file)
    (kept,) = (file.parent / "cache" / "headers").iterdir()
    kept.write_bytes(content)
    assert checked_header(file) == read_header(file)
    assert reads == [file] * 2


def test_names_that_are_not_text_are_read_each_time(file: Path, reads: list[Path]) -> None:
    odd = Path(os.fsdecode(os.fsencode(file.parent) + b"/\xff.gguf"))
    try:
        file.rename(odd)
    except OSError:
        pytest.skip("this file system has no such names")
    assert checked_header(odd) == checked_header(odd)
    assert reads == [odd] * 2
