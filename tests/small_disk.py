"""A real file system of few MB, which can be filled and made read-only. Only root may have one."""

import contextlib
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

MIB = 1 << 20


class SmallDisk:
    def __init__(self, folder: Path):
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """To the last byte."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
        with pytest.raises(OSError) as caught:
            (self.folder / "no-room").write_bytes(b"a" * 8192)
        assert caught.value.errno == errno.ENOSPC
        (self.folder / "no-room").unlink(missing_ok=True)

    def free(self) -> None:
        self._filler.unlink()

    def remount(self, option: str) -> None:
        """`ro` or `rw`."""
        subprocess.run(["mount", "-o", f"remount,{option}", str(self.folder)], check=True)


@contextlib.contextmanager
def mounted(folder: Path, size_bytes: int) -> Iterator[SmallDisk]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no file system can be mounted: {error}")
    if done.returncode:
        pytest.skip(f"no file system can be mounted: {done.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
