"""Idle cores, from files that look like the kernel's."""

import os
from pathlib import Path

import pytest

from localinfra.engine.policy.idle_cores import IdleCores


def test_idle_cores_are_read_from_the_system(tmp_path: Path) -> None:
    stat, now = tmp_path / "stat", 0.0
    core = min(os.sched_getaffinity(0))
    ticks = os.sysconf("SC_CLK_TCK")

    def write(idle_s: float) -> None:
        busy_line = "cpu99999 0 0 0 99999999 0 0\n"  # not ours
        line = f"cpu{core} 5 0 7 {int(idle_s * ticks)} 0 0 0\n"
        stat.write_text(f"cpu  1 1 1 1 1\n{line}{busy_line}intr 1 2 3\n")

    write(10)
    idle_cores = IdleCores(tmp_path, clock=lambda: now)
    assert idle_cores.of_late() is None
    now = 2.0
    write(11.5)
    assert idle_cores.of_late() == pytest.approx(0.75)
    assert idle_cores.at_once() == pytest.approx(0.75)  # nothing tells
    now = 2.1
    assert idle_cores.of_late() == pytest.approx(0.75)  # the window is not over
    stat.unlink()
    now = 4.0
    # a read that fails, for want of descriptors say
    assert idle_cores.of_late() == pytest.approx(0.75)
    assert IdleCores(tmp_path).of_late() is None
    write(13.5)
    assert idle_cores.of_late() == pytest.approx(1.0)


def test_idle_cores_at_once_are_those_that_no_other_thread_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loadavg = tmp_path / "loadavg"
    num_cores = len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "cpu_count", lambda: num_cores)
    idle_cores = IdleCores(tmp_path)
    assert idle_cores.at_once() is None
    loadavg.write_text("0.52 0.58 0.59 1/467 12345\n")
    assert idle_cores.at_once() == num_cores
    loadavg.write_text(f"9.52 8.58 7.59 {num_cores + 1}/467 12345\n")
    assert idle_cores.at_once() == 0
    monkeypatch.setattr(os, "cpu_count", lambda: num_cores + 1)  # others may run on the other one
    assert IdleCores(tmp_path).at_once() is None
