"""Which process listens on a port, if the system shows that without extra rights."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp


class Listener(NamedTuple):
    name: str
    pid: int

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})"

    @property
    def is_server(self) -> bool:
        """Whether it is a localinfra server, not a tunnel or a proxy that leads to one."""
        try:
            words = (PROC / str(self.pid) / "cmdline").read_text(errors="replace").split("\0")
        except OSError:
            return False
        return "serve" in words and any(Path(word).name == "localinfra" for word in words)


def listener_on(port: int) -> Listener | None:
    """The process; None if it can't be found."""
    sockets = {f"socket:[{inode}]" for inode in listening_inodes(port)}
    if not sockets:
        return None
    for process in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            for descriptor in (process / "fd").iterdir():
                if str(descriptor.readlink()) in sockets:
                    return Listener((process / "comm").read_text().strip(), int(process.name))
    return None


def listening_inodes(port: int) -> Iterator[str]:
    for table in ("net/tcp", "net/tcp6"):
        with contextlib.suppress(OSError):
            for line in (PROC / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]
