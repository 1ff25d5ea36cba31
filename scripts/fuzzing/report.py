"""What a run found, while it runs and at its end."""

import os
import time
from collections.abc import Sequence

from fuzzing.control import Watch
from fuzzing.run import SLOW_S, Findings
from fuzzing.served import FuzzedServer

PROGRESS_S = 10.0
MOST_RATIO = 3.0  # of an answer's time to the slowest one's of the control streams
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
            print(f"{name:<11} {watch.num_asked} asked, the slowest {watch.longest_s:.2f} s")
        stuck = self._stuck()
        for silent_s, number, operation, kind in sorted(found.slow, reverse=True)[:20]:
            print(f"slow        {silent_s:.0f} s: {number}, {operation}: {kind}")
        if is_alive:
            time.sleep(STILL_S)
            print(f"at first    {told(self._first)}\nat the end  {told(self._server.size())}")
        complaints = self._server.complaints()
        for line in complaints[:30]:
            print(f"the log     {line[:200]}")
        faults = [*(fault for watch in self._watches for fault in watch.faults), *stuck]
        if not is_alive:
            faults.append(f"the server died ({self._server.process.poll()})")
            print(self._server.last_words())
        for fault in faults:
            print(f"FAILED      {fault}")
        for fault, count in found.faults.most_common():
            print(f"FAILED      {count} times {fault} ({found.files.get(fault, '')})")
        print(f"{len(faults) + len(found.faults)} kinds of faults")
        return int(bool(faults or found.faults))

    def _stuck(self) -> list[str]:
        """Answers that took long though others' did not: other load slows them all."""
        usual_s = max(watch.longest_s for watch in self._watches)
        return [
            f"silent for {silent_s:.0f} s: {number}, {operation}: {kind}"
            for silent_s, number, operation, kind in self._findings.slow
            if silent_s > max(SLOW_S, MOST_RATIO * usual_s)
        ]


def told(size: tuple[float, int, int] | None) -> str:
    if size is None:
        return "gone"
    return f"{size[0]:.0f} MiB, {size[1]} threads, {size[2]} open files"
