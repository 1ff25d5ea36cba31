"""Who was at work when a process died, as its supervisor reads it."""

import subprocess
import sys
import tempfile
import threading

import pytest

from localinfra.journal import (
    MAX_ROWS,
    SIZE,
    CrashJournal,
    Mark,
    StepKind,
    Suspect,
    Trouble,
    culprits,
)

A, B = "a" * 32, "b" * 32
DIES = """
import os, sys
from localinfra.journal import CrashJournal, StepKind
journal = CrashJournal.on(int(sys.argv[1]))
journal.set_ready()
journal.open("idle", "a" * 32)
journal.open("größer", "b" * 32).note(StepKind.DECODE)
os.abort()
"""


def test_what_a_process_noted_outlives_it() -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(SIZE)
        command = [sys.executable, "-c", DIES, str(file.fileno())]
        subprocess.run(command, pass_fds=[file.fileno()], check=False)
        journal = CrashJournal.on(file.fileno())
    [found] = journal.at_work()
    assert (found.name, found.identity, found.step) == ("größer", B, StepKind.DECODE)
    assert journal.is_ready
    journal.clear()
    assert not journal.at_work() and not journal.is_ready


def test_a_row_is_free_again_once_its_model_is_gone() -> None:
    journal = CrashJournal()
    marks = [journal.open(str(number), A) for number in range(MAX_ROWS + 1)]
    for mark in marks:
        mark.note(StepKind.LOAD)
    assert len(journal.at_work()) == MAX_ROWS  # one more has no row, and does no harm
    journal.close(marks[7])
    marks[7].note(StepKind.DECODE)  # by a thread that was left behind
    assert len(journal.at_work()) == MAX_ROWS - 1
    journal.open("next", B).note(StepKind.LOAD)
    assert [one.name for one in journal.at_work() if one.identity == B] == ["next"]


def test_a_model_in_trouble_stays_noted_after_it_was_closed() -> None:
    journal = CrashJournal()
    mark = journal.open("stuck", A)
    mark.note(StepKind.IDLE)
    mark.blame(Trouble.HANGS)
    journal.close(mark)
    assert [(one.name, one.trouble) for one in journal.at_work()] == [("stuck", Trouble.HANGS)]


def test_nonsense_that_a_dying_process_wrote_is_left_out() -> None:
    memory = bytearray(b"\xff" * SIZE)
    assert CrashJournal(memory).at_work() == []


def suspect(name: str, thread: int, trouble: Trouble = Trouble.NONE) -> Suspect:
    return Suspect(StepKind.DECODE, trouble, thread, A, name)


@pytest.mark.parametrize(
    ("report", "names"),
    [
        ("Fatal Python error: Aborted\n\nCurrent thread 0x000000000000000b (most", ["second"]),
        ("Fatal Python error: Aborted\n\nCurrent thread 0x0000000000000001 (most", []),
        ("Fatal Python error: Aborted\n\nThread 0x000000000000000b (most", ["first", "second"]),
        ("", ["first", "second"]),
    ],
    ids=["its thread died", "another thread died", "a library's thread died", "no report"],
)
def test_the_thread_that_died_tells_whose_fault_it_was(report: str, names: list[str]) -> None:
    at_work = [suspect("first", 10), suspect("second", 11)]
    assert [found.name for found in culprits(at_work, report)] == names


def test_who_made_the_server_end_itself_is_the_only_culprit() -> None:
    at_work = [suspect("first", 10), suspect("second", 11, Trouble.DEVICE_LOST)]
    assert [found.name for found in culprits(at_work, "")] == ["second"]


def test_a_note_names_its_thread() -> None:
    journal = CrashJournal()
    mark = journal.open("model", A)
    thread = threading.Thread(target=mark.note, args=(StepKind.EMBED,))
    thread.start()
    thread.join()
    assert journal.at_work()[0].thread == thread.ident
    mark.note(StepKind.EMBED)
    assert journal.at_work()[0].thread == threading.get_ident()


def test_a_second_thread_of_a_model_has_a_row_of_its_own() -> None:
    """Else a death while it works would be laid to nobody, or to what the first one does."""
    journal = CrashJournal()
    mark = journal.open("größer", A)
    other = journal.open("other", B)
    other.note(StepKind.DECODE)
    with mark.beside(StepKind.SEE):
        found = {(entry.name, entry.step): entry for entry in journal.at_work()}
        assert found.keys() == {("größer", StepKind.SEE), ("other", StepKind.DECODE)}
        assert found["größer", StepKind.SEE].identity == A
        mark.note(StepKind.DECODE)
        names = [entry.name for entry in culprits(journal.at_work(), "")]
        assert names == ["größer", "other"]  # each once: a death counts once
        journal.close(mark)  # the model is unloaded meanwhile
    assert [entry.name for entry in journal.at_work()] == ["other"]
    with mark.beside(StepKind.SEE), Mark().beside(StepKind.SEE):
        assert [entry.name for entry in journal.at_work()] == ["other"]
