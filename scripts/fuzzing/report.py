"""What a run found, while it runs and at its end."""

import os
import time
from collections.abc import Sequence

from fuzzing.control import Control, Watch
from fuzzing.patience import hangs
from fuzzing.run import Findings
from fuzzing.served import FuzzedServer

PROGRESS_S = 10.0
STILL_S = 8.0  # for answers in the background to end, and what is kept of them to go


class Report:
    def __init__(
        self,
        findings: Findings,
        watches: Sequence[Watch],
        server: FuzzedServer,
        count: int,
    ):
        self._findings, self._watches, self._server = findings, watches, server
        self._count = count
        self._began, self._first = time.monotonic(), server.size()

    def tell_progress(self) -> None:
        while self._server.is_alive:
            time.sleep(PROGRESS_S)
            found, passed_s = self._findings, time.monotonic() - self._began
            watched = sum(len(watch.faults) for watch in self._watches)
            print(
                f"{found.num_sent:>7} of {self._count}, {found.num_sent / passed_s:.0f} a second, "
                f"{sum(found.faults.values())} faults of {len(found.faults)} kinds, "
                f"{watched} of others, {len(found.slow)} slow, {told(self._server.size())}",
                flush=True,
            )

    def tell(self, took_s: float) -> int:
        """Prints the summary; the exit status."""
        found, is_alive = self._findings, self._server.is_alive
        print(f"\n{found.num_sent} requests in {took_s:.0f} s; load {os.getloadavg()[0]:.1f}")
        print("answers     " + ", ".join(f"{one}: {n}" for one, n in found.statuses.most_common()))
        print(
            "operations  " + ", ".join(f"{one}: {n}" for one, n in found.operations.most_common())
        )
        for watch in self._watches:
            name = type(watch).__name__.lower()
            print(f"{name:<11} {len(watch.asked)} asked, the slowest {watch.longest_s:.2f} s")
        slowest = sorted(found.slow, key=lambda slow: slow.silence.took_s, reverse=True)
        for slow in slowest[:20]:
            print(f"slow        {slow}")
        if is_alive:
            time.sleep(STILL_S)
            print(f"at first    {told(self._first)}\nat the end  {told(self._server.size())}")
        complaints = self._server.complaints()
        for line in complaints[:30]:
            print(f"the log     {line[:200]}")
        faults = [fault for watch in self._watches for fault in watch.faults]
        controls = [
            span for watch in self._watches if isinstance(watch, Control) for span in watch.asked
        ]
        faults += [f"hangs: {slow}" for slow in slowest if hangs(slow, controls)]
        if not is_alive:
            faults.append(f"the server died ({self._server.process.poll()})")
            print(self._server.last_words())
        for fault in faults:
            print(f"FAILED      {fault}")
        for fault, count in found.faults.most_common():
            print(f"FAILED      {count} times {fault} ({found.files.get(fault, '')})")
        print(f"{len(faults) + len(found.faults)} kinds of faults")
        return int(bool(faults or found.faults))


def told(size: tuple[float, int, int] | None) -> str:
    if size is None:
        return "gone"
    return f"{size[0]:.0f} MiB, {size[1]} threads, {size[2]} open files"
