"""The benchmarks' reports: printed, and with `--write` put into the documents."""

import argparse
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ("avx512_bf16", "avx512_vnni", "avx512f", "avx2", "asimd")  # the first match is shown


def add_write_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--write", action="store_true", help="also replace this script's table in docs/"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """The CPU with its best vector extension, cores, load and revisions."""
    info = Path("/proc/cpuinfo").read_text()
    [cpu, *_] = re.findall(r"^model name\s*:\s*(.+)", info, re.MULTILINE) or [platform.machine()]
    flags = set(info.split())
    known = next((flag for flag in FLAGS if flag in flags), "no vector extensions known")
    revision = first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    return (
        f"{cpu} ({known}), {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} at "
        f"the start; localinfra {revision} with llama-cpp-python {version('llama-cpp-python')}"
    )


def first_line(*command: str) -> str:
    """The first line that a command prints, to stdout or stderr."""
    try:
        output = subprocess.check_output(command, stderr=subprocess.STDOUT, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "?"
    return next(iter(output.splitlines()), "?")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def publish(script: str, report: str, *, writes: bool, folder: Path = ROOT / "docs") -> None:
    """Prints the report; if `writes`, also puts it into the document that has the marks
    `<!-- SCRIPT -->` and `<!-- end of SCRIPT -->`, between them."""
    print(report)
    if not writes:
        return
    begin, end = f"<!-- {script} -->", f"<!-- end of {script} -->"
    for document in sorted(folder.glob("*.md")):
        text = document.read_text(encoding="utf-8")
        before, has_begin, rest = text.partition(begin)
        _, has_end, after = rest.partition(end)
        if has_begin and has_end:
            whole = f"{before}{begin}\n{report.strip()}\n{end}{after}"
            document.write_text(whole, encoding="utf-8")
            print(f"\nwritten to {document}")
            return
    raise SystemExit(f"No document has {begin} … {end}.")
