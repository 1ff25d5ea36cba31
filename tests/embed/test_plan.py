"""Plans: the fastest accurate way, what a plan depends on, and when it is removed."""

import os
import time
from pathlib import Path

import msgspec

from localinfra.embed import plan as plans
from localinfra.embed.encoder import Description
from localinfra.embed.plan import EncoderPlan, MeasuredWay

DESCRIPTION = Description("embedding", 4, 16, 0, False)


def plan(**seconds: tuple[float, bool]) -> EncoderPlan:
    measured = {
        name.replace("_", "-"): MeasuredWay(1.0, near, took, took)
        for name, (took, near) in seconds.items()
    }
    return EncoderPlan(DESCRIPTION, measured)


def kept(folder: Path, what: EncoderPlan) -> Path:
    folder.mkdir(parents=True)
    (folder / plans.PLAN).write_bytes(msgspec.json.encode(what))
    return folder


def test_the_fastest_way_among_those_with_the_same_results() -> None:
    known = plan(
        torch=(9.0, True), onnx=(3.0, True), openvino=(1.0, False), openvino_bf16=(2, True)
    )
    assert known.fastest(exact=False) == "openvino-bf16"
    assert known.fastest(exact=True) == "onnx"


def test_a_plan_is_kept_while_it_is_used(tmp_path: Path) -> None:
    fresh, used, old = (kept(tmp_path / name, plan(torch=(1, True))) for name in "abc")
    long_ago = time.time() - 2 * plans.KEPT_UNUSED_S
    for folder in (used, old):
        os.utime(folder / plans.PLAN, (long_ago, long_ago))
    assert plans.load(used) == plans.load(fresh) == plan(torch=(1, True))
    plans.drop_unused(tmp_path)
    assert [fresh.exists(), used.exists(), old.exists()] == [True, True, False]


def test_an_unreadable_plan_counts_as_none(tmp_path: Path) -> None:
    folder = kept(tmp_path / "a", plan(torch=(1, True)))
    (folder / plans.PLAN).write_text("{")
    assert plans.load(folder) is None and plans.load(tmp_path / "absent") is None


def test_a_plan_depends_on_the_files_and_how_they_are_used(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    def identity(kind: str = "embedding", cpu: str = "x", length: int | None = None) -> str:
        return plans.fingerprint(tmp_path, kind, cpu, 2, length)

    first = identity()
    assert first == identity()
    assert len({first, identity("rerank"), identity(cpu="y"), identity(length=8)}) == 4
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert identity() != first
