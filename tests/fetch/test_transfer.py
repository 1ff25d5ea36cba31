"""A file arrives whole and right, whatever its server does."""

import itertools
import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from fetch.pulling import QUICK, pulled
from fetch.site import Fault, Site, repository

from localinfra.errors import DiskFull, PullFailed, PullRefused, PullStopped
from localinfra.models.fetch import transfer
from localinfra.models.fetch.progress import PullProgress
from localinfra.models.fetch.pull import fetch, plan
from localinfra.models.sources import HubSource

DATA = b"GGUF" + random.Random(1).randbytes(1_000_000)
REPO = "org/m-GGUF"
MODEL = f"hf:{REPO}/m-Q8_0.gguf"


@pytest.fixture(autouse=True)
def model(hub: Site, cdn: Site) -> None:
    repository(hub, cdn, REPO, {"m-Q8_0.gguf": DATA})


def test_a_file_comes_in_parts_at_once(cdn: Site) -> None:
    assert pulled(MODEL).read_bytes() == DATA
    ranges = {one.range for one in cdn.requests}
    assert len(ranges) == 11 and "bytes=1000000-1000003" in ranges
    assert cdn.sent_bytes == len(DATA)
    assert cdn.num_connections <= QUICK.connections, "they are used again"


def test_a_file_that_is_here_is_not_fetched_again(cdn: Site) -> None:
    assert pulled(MODEL) == pulled(MODEL)
    assert cdn.sent_bytes == len(DATA)


@pytest.mark.parametrize("seed", range(5))
def test_a_line_that_breaks_anywhere_costs_no_byte_twice(cdn: Site, seed: int) -> None:
    cuts = random.Random(seed)
    cdn.faults = [Fault(cut_after=cuts.randrange(100_000)) for _ in range(12)]
    assert pulled(MODEL).read_bytes() == DATA
    assert cdn.sent_bytes == len(DATA)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_that_is_overloaded_is_asked_again(cdn: Site, status: int) -> None:
    cdn.faults = [Fault(status, {"Retry-After": "0"})] * 3
    assert pulled(MODEL).read_bytes() == DATA


def test_a_server_that_stays_overloaded_is_an_error_that_says_how_to_go_on(cdn: Site) -> None:
    cdn.faults = [Fault()] * 5 + [Fault(503)] * 100
    with pytest.raises(PullFailed, match=r"127\.0\.0\.1 answers with status 503.* goes on"):
        pulled(MODEL)
    cdn.faults, before = [], cdn.sent_bytes
    assert before
    assert pulled(MODEL).read_bytes() == DATA
    assert cdn.sent_bytes <= len(DATA) + 4 * 65_536


def test_a_server_that_asks_to_wait_for_hours_is_an_error_that_says_so(cdn: Site) -> None:
    cdn.faults = [Fault(429, {"Retry-After": "7200"})]
    with pytest.raises(PullFailed, match="asks to wait 7200 s"):
        pulled(MODEL)


def test_bytes_that_came_wrong_are_fetched_again(cdn: Site, tmp_path: Path) -> None:
    cdn.faults = [Fault(spoil=True)]
    assert pulled(MODEL).read_bytes() == DATA
    assert not [path.name for path in tmp_path.rglob("*.part")]


@pytest.mark.parametrize("more", [-1, 1])
def test_a_file_of_another_size_is_an_error_before_it_comes(cdn: Site, more: int) -> None:
    content = next(iter(cdn.files.values()))
    content.data = (content.data + b"x")[: len(DATA) + more]
    with pytest.raises(PullFailed, match=r"bytes as m-Q8_0\.gguf, not 1,000,004"):
        pulled(MODEL)


def test_a_file_that_stays_wrong_gets_no_name(cdn: Site, tmp_path: Path) -> None:
    cdn.faults = [Fault(spoil=True)] * 100
    with pytest.raises(PullFailed, match="has not the hash it should have, also"):
        pulled(MODEL)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "lock" not in path.name]


def unfinished(cdn: Site, tmp_path: Path, num_parts: int) -> Path:
    """The file of a pull that ended after so many parts."""
    cdn.faults = [*[Fault()] * num_parts, Fault(status=400)]
    with pytest.raises(PullFailed):
        pulled(MODEL, replace(QUICK, connections=1))
    [path] = tmp_path.rglob("*.part")
    return path


def test_a_part_that_the_disk_lost_is_fetched_again_alone(cdn: Site, tmp_path: Path) -> None:
    path = unfinished(cdn, tmp_path, 5)
    with path.open("r+b") as file:  # as after a power cut
        file.seek(250_000)
        file.write(bytes(1000))
    cdn.requests.clear()
    assert pulled(MODEL).read_bytes() == DATA
    again = [
        one.range
        for one in cdn.requests
        if one.range and int(one.range[6:].split("-")[0]) < 500_000
    ]
    assert again == ["bytes=200000-299999"]


@pytest.mark.parametrize("damage", ["", "{}", '{"content":"other"}\n', "\0" * 1000])
def test_a_journal_that_makes_no_sense_is_not_trusted(
    cdn: Site, tmp_path: Path, damage: str
) -> None:
    path = unfinished(cdn, tmp_path, 5)
    path.with_name(f"{path.name}.journal").write_text(damage)
    assert pulled(MODEL).read_bytes() == DATA


def test_a_server_without_ranges_sends_the_whole_file_again(cdn: Site) -> None:
    content = next(iter(cdn.files.values()))
    content.has_ranges = False
    cdn.faults = [Fault(), Fault(cut_after=300_000)]
    assert pulled(MODEL, replace(QUICK, connections=1)).read_bytes() == DATA


def test_an_address_that_expired_is_asked_for_again(cdn: Site, hub: Site) -> None:
    cdn.faults = [Fault(), Fault(), Fault(status=403)]
    assert pulled(MODEL, replace(QUICK, connections=1)).read_bytes() == DATA
    assert len(hub.asked(f"/{REPO}/resolve")) == 2


def test_a_stalled_line_is_given_up(cdn: Site) -> None:
    cdn.faults = [Fault(cut_after=50_000, stall=True)]
    assert pulled(MODEL, replace(QUICK, read_s=1, attempts=1000)).read_bytes() == DATA


def test_a_line_that_trickles_is_made_anew(cdn: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait is too long, so only the rate shows that the line is of no use."""
    seconds = itertools.count(step=20)
    monkeypatch.setattr(transfer, "monotonic", lambda: next(seconds))
    pace = replace(QUICK, connections=1, part_bytes=len(DATA), slow_bytes=10**9)
    with pytest.raises(PullFailed, match="has become very slow"):
        pulled(MODEL, replace(pace, attempts=1))


def test_a_pull_that_is_stopped_ends_at_once_and_goes_on_later(cdn: Site) -> None:
    stop = threading.Event()
    cdn.faults = [Fault(), Fault(cut_after=10, stall=True)]  # would wait for half a minute

    def show(progress: PullProgress) -> None:
        if progress.done_bytes >= 100_010:
            stop.set()

    with pytest.raises(PullStopped):
        pulled(MODEL, replace(QUICK, connections=1), show, stop)
    before = cdn.sent_bytes
    assert pulled(MODEL).read_bytes() == DATA
    assert cdn.sent_bytes - before == len(DATA) - 100_010


def test_two_pulls_share_the_work_and_show_it(cdn: Site) -> None:
    first_is_at_work, second_waits = threading.Event(), threading.Event()

    def hold(size: int) -> bool:
        first_is_at_work.set()
        return second_waits.wait()

    cdn.before_chunk = hold
    first = threading.Thread(target=pulled, args=(MODEL,))
    first.start()
    assert first_is_at_work.wait()
    seen: list[PullProgress] = []

    def show(progress: PullProgress) -> None:
        seen.append(progress)
        second_waits.set()

    assert pulled(MODEL, show=show).read_bytes() == DATA
    first.join()
    assert seen[0].stage == "waiting"
    assert cdn.sent_bytes == len(DATA)


def test_progress_never_goes_back_and_ends_whole(cdn: Site) -> None:
    seen: list[PullProgress] = []
    cdn.faults = [Fault(cut_after=90_000)] * 3
    pulled(MODEL, show=seen.append)
    done = [progress.done_bytes for progress in seen]
    assert done == sorted(done)
    assert (done[-1], seen[-1].total_bytes, seen[-1].file) == (len(DATA), len(DATA), "m-Q8_0.gguf")


def test_a_full_disk_is_known_before_the_first_byte(
    cdn: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "SPARE_BYTES", 1 << 60)
    with pytest.raises(DiskFull, match=r"Make room, or set HF_HUB_CACHE"):
        pulled(MODEL)
    assert not cdn.requests


def test_a_folder_that_cant_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file")
    with pytest.raises(DiskFull, match="hub"):
        pulled(MODEL)


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/a", "http://user:secret@127.0.0.1/a"]
)
def test_a_redirect_that_leaves_the_web_is_not_followed(hub: Site, location: str) -> None:
    for path in hub.redirects:
        hub.redirects[path] = location
    with pytest.raises(PullFailed, match="Only http and https"):
        pulled(MODEL)


def test_a_circle_of_redirects_ends(hub: Site) -> None:
    for path in hub.redirects:
        hub.redirects[path] = path
    with pytest.raises(PullFailed, match="in a circle"):
        pulled(MODEL)


def test_the_token_goes_to_its_own_hub_alone(
    hub: Site, cdn: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_DISABLE_IMPLICIT_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.token = "hf_secret"
    assert pulled(MODEL).read_bytes() == DATA
    assert {one.authorization for one in hub.requests} == {"Bearer hf_secret"}
    assert {one.authorization for one in cdn.requests} == {None}


def test_a_gated_file_is_told_with_the_page_to_accept(hub: Site) -> None:
    found = plan(HubSource(REPO, "m-Q8_0.gguf"), pace=QUICK)
    hub.token = "hf_secret"
    with pytest.raises(PullRefused, match=rf"accept them at {hub.url}/{REPO}, and log in with"):
        fetch(found, lambda progress: None, threading.Event(), QUICK)
