"""The files of `disk_cache`: whatever is not exactly what was written is a miss, and leaves."""

import os
import stat
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from localinfra.engine.offloaded import KeptSpan, OffloadedCells
from localinfra.prefixes.entry import FIXED, HASH_BYTES, NO_PARENT, Entry, name_of
from localinfra.prefixes.folder import Folder, FolderUnusable

MODEL, OTHER = b"m" * HASH_BYTES, b"o" * HASH_BYTES
SALT = b"s" * HASH_BYTES
TOKENS = list(range(1000, 1020))
DATA: NDArray[np.uint8] = np.arange(2000, dtype=np.uint32).view(np.uint8)
LIMIT = 1 << 20


def opened(root: Path, limit: int = LIMIT) -> Folder:
    folder = Folder(root, limit)
    folder.make()
    return folder


def entry_of(tokens: list[int] = TOKENS, parent: bytes = NO_PARENT, start: int = 0) -> Entry:
    return Entry(MODEL, SALT, parent, start, tokens, is_canonical=True)


def written(folder: Folder, entry: Entry, data: NDArray[np.uint8] = DATA) -> str:
    folder.write(entry, data)
    return name_of(folder.secret, entry)


def chain(folder: Folder, num_entries: int, first: int = 0) -> list[str]:
    """Names of entries of 20 tokens, each after the one before."""
    names: list[str] = []
    for at in range(num_entries):
        parent = bytes.fromhex(names[-1]) if names else NO_PARENT
        tokens = [first + at, *TOKENS[1:]]
        names.append(written(folder, entry_of(tokens, parent, 20 * at)))
    return names


def is_whole(data: NDArray[np.uint8] | None) -> bool:
    return data is not None and np.array_equal(data, DATA)


def path_of(root: Path, name: str) -> Path:
    return root / MODEL.hex() / name


def test_what_was_written_is_found_by_the_next_server(tmp_path: Path) -> None:
    names = chain(opened(tmp_path), 3)
    folder = opened(tmp_path)
    spans = folder.spans(MODEL)
    assert [span.cells.file for span in spans] == names
    assert [span.cells.start for span in spans] == [0, 20, 40]
    assert [span.parent for span in spans] == [None, spans[0].cells, spans[1].cells]
    assert {span.salt for span in spans} == {SALT.hex()}
    assert all(span.cells.data is None and span.cells.is_canonical for span in spans)
    for name in names:
        assert is_whole(folder.read(MODEL, name))


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    root = tmp_path / "prefixes"
    root.mkdir(mode=0o755)
    [name] = chain(opened(root), 1)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*")}
    assert stat.S_IMODE(root.stat().st_mode) == modes[root / MODEL.hex()] == 0o700
    assert modes[path_of(root, name)] == modes[root / "secret"] == 0o600


def test_any_flipped_or_missing_byte_is_a_miss_and_the_file_leaves(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    [name] = chain(folder, 1)
    path = path_of(tmp_path, name)
    whole = path.read_bytes()
    header = FIXED.size + 4 * len(TOKENS) + HASH_BYTES
    places = [*range(header), header, header + 777, len(whole) - 1]
    damaged = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in places]
    damaged += [whole[:size] for size in (0, 1, header - 1, header, len(whole) - 1)]
    damaged += [whole + b"\0", bytes(len(whole)), b"GGUF"]
    for count, content in enumerate(damaged):
        path.write_bytes(content)
        assert folder.read(MODEL, name) is None
        assert not path.exists() and folder.num_damaged == count + 1
    path.write_bytes(whole)
    assert is_whole(folder.read(MODEL, name))


def test_a_damaged_header_is_no_span_and_neither_is_what_continues_it(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    names, others = chain(folder, 3), chain(folder, 2, first=5)
    path = path_of(tmp_path, names[1])
    path.write_bytes(path.read_bytes()[:-1])
    found = {span.cells.file for span in opened(tmp_path).spans(MODEL)}
    assert found == {names[0], *others}
    assert not path.exists() and not path_of(tmp_path, names[2]).exists()


def test_files_of_other_models_folders_and_names_are_not_used(tmp_path: Path) -> None:
    folder = opened(tmp_path / "one")
    first, second = chain(folder, 1)[0], chain(folder, 1, first=7)[0]
    assert folder.spans(OTHER) == []
    content = path_of(tmp_path / "one", first).read_bytes()
    # Under another entry's name, for another model, and in a folder with another secret.
    path_of(tmp_path / "one", second).write_bytes(content)
    assert folder.read(MODEL, second) is None
    moved = tmp_path / "one" / OTHER.hex() / first
    moved.parent.mkdir()
    moved.write_bytes(content)
    assert folder.spans(OTHER) == [] and not moved.exists()
    foreign = opened(tmp_path / "two")
    chain(foreign, 1)
    path_of(tmp_path / "two", first).write_bytes(content)
    assert first not in {span.cells.file for span in foreign.spans(MODEL)}


def test_links_pipes_and_folders_are_no_files(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    [name] = chain(folder, 1)
    path = path_of(tmp_path, name)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert folder.read(MODEL, name) is None
    os.mkfifo(path)
    assert folder.read(MODEL, name) is None
    path.mkdir()
    assert folder.read(MODEL, name) is None and folder.spans(MODEL) == []
    assert elsewhere.exists()


def test_the_least_recently_used_leave_first_and_the_ends_of_conversations_before_their_start(
    tmp_path: Path,
) -> None:
    size = entry_of().file_bytes + DATA.nbytes
    folder = opened(tmp_path, limit=6 * size)
    old, recent = chain(folder, 3), chain(folder, 3, first=5)
    folder.touch(MODEL, old)
    folder.touch(MODEL, recent)
    folder.touch(MODEL, old)
    chain(folder, 1, first=9)
    left = {path.name for path in tmp_path.glob(f"{MODEL.hex()}/*")}
    assert set(old) < left and recent[2] not in left
    assert recent[0] in left or recent[1] not in left
    assert folder.num_bytes <= 6 * size


def test_an_entry_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="larger than disk_cache"):
        opened(tmp_path, limit=DATA.nbytes).write(entry_of(), DATA)
    assert not list(tmp_path.glob("*/*"))


def test_what_a_killed_server_left_half_written_is_removed(tmp_path: Path) -> None:
    chain(opened(tmp_path), 1)
    part = tmp_path / MODEL.hex() / f"{'a' * 32}.77.part"
    part.write_bytes(b"half")
    opened(tmp_path)
    assert part.exists(), "another server may be writing it"
    os.utime(part, (0, 0))
    opened(tmp_path)
    assert not part.exists()


def test_a_folder_that_can_not_be_used_is_told_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderUnusable, match=r"file.* LOCALINFRA_CACHE"):
        opened(tmp_path / "file")


def test_servers_that_start_together_have_one_secret(tmp_path: Path) -> None:
    """Else each would take the other's files for damaged."""
    first = Folder(tmp_path, LIMIT)
    read, others = first._read_secret, list[Folder]()

    def late() -> bytes | None:
        first._read_secret = read  # type: ignore[method-assign]
        found = read()
        others.append(opened(tmp_path))  # another server, right after this one has looked
        return found

    first._read_secret = late  # type: ignore[method-assign]
    first.make()
    assert first.secret == others[0].secret == opened(tmp_path).secret


def test_a_damaged_secret_makes_all_files_foreign(tmp_path: Path) -> None:
    chain(opened(tmp_path), 2)
    (tmp_path / "secret").write_bytes(b"short")
    folder = opened(tmp_path)
    assert folder.spans(MODEL) == [] and not list(tmp_path.glob(f"{MODEL.hex()}/*"))
    chain(folder, 1)
    spans: list[KeptSpan] = opened(tmp_path).spans(MODEL)
    assert len(spans) == 1 and isinstance(spans[0].cells, OffloadedCells)


def test_files_of_a_clock_that_was_ahead_leave_before_new_ones(tmp_path: Path) -> None:
    """They count as used when it was set, not for a year as the newest."""
    size = entry_of().file_bytes + DATA.nbytes
    folder = opened(tmp_path, limit=4 * size)
    ahead = chain(folder, 4)
    for name in ahead:
        time_s = time.time() + 365 * 86_400
        os.utime(path_of(tmp_path, name), (time_s, time_s))
    for first in range(50, 58):
        [name] = chain(folder, 1, first=first)
        folder.touch(MODEL, [name])
    left = {path.name for path in tmp_path.glob(f"{MODEL.hex()}/*")}
    assert name in left and not left & set(ahead)
