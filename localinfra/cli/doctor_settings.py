"""What `localinfra doctor` reports on the settings: which models can be served, why others can't,
and the commands that download missing files.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from localinfra.cli.findings import Finding
from localinfra.cli.memory import planned, sharing, steps
from localinfra.config.settings import ServerSettings
from localinfra.errors import ApiError
from localinfra.models import files
from localinfra.models.catalog import table_of
from localinfra.models.entries import ModelEntry, TextModelEntry
from localinfra.models.gguf.reader import BadGguf, read_header
from localinfra.optimize import store


def check_models(path: Path, entries: Mapping[str, ModelEntry]) -> Iterator[Finding]:
    ready = [name for name, entry in entries.items() if files.state(entry) == "present"]
    if not entries:
        yield Finding("problem", f'{path} has no model: add a [model."NAME"] table')
    elif not ready:
        yield Finding("problem", f"{path}: none of its models can be served")
    else:
        yield Finding("ok", f"{path}: {', '.join(ready)}")
    for name, entry in entries.items():
        yield from check_files(name, entry)


def check_files(name: str, entry: ModelEntry) -> Iterator[Finding]:
    command = entry.source.command(name) or ""
    for problem in files.problems(entry, is_thorough=True):
        text = f"{table_of(name, entry)} {problem}"
        yield Finding("failed" if entry.source.is_repository else "problem", text, command)
    if entry.source.find() is None:
        size = f" ({entry.download_gb:g} GB)" if entry.download_gb else ""
        why = f"its files are missing{size}" if command else entry.source.remedy(name)
        yield Finding("hint", f"{name}: {why}", command)


def check_sharing(entries: Mapping[str, ModelEntry]) -> Iterator[Finding]:
    """Of models whose memory is not cells alone. Loads llama.cpp."""
    for name, entry, path in text_models(entries):
        try:
            words = sharing(entry, read_header(path))
        except (BadGguf, ApiError):
            continue  # reported as a problem of its files
        if words:
            yield Finding("ok", f"{name}: prefixes are {words}")


def check_steps(entries: Mapping[str, ModelEntry], settings: ServerSettings) -> Iterator[Finding]:
    """Of models that GPUs compute, or parts of them. Loads llama.cpp."""
    for name, entry, path in text_models(entries):
        try:
            plan, _ = planned(entry, path, read_header(path), settings)
        except (BadGguf, ApiError):
            continue
        if plan.gpus:
            yield Finding("ok", f"{name}: prompts are read in {steps(entry, plan)}")


def text_models(
    entries: Mapping[str, ModelEntry],
) -> Iterator[tuple[str, TextModelEntry, Path]]:
    """Those whose files are here."""
    for name, entry in entries.items():
        path = entry.source.find()
        if path is not None and isinstance(entry, TextModelEntry):
            yield name, entry, path


def part_of(entry: ModelEntry) -> str | None:
    """The extra that a model needs to be served, if its files are here."""
    path = entry.source.find()
    return entry.extra(path) if path else None


def look_at_weights(
    entries: Mapping[str, ModelEntry],
) -> tuple[dict[str, str | None], dict[str, str]]:
    """Model → what was decided (None: not measured yet), and model → why it wasn't measured."""
    decided: dict[str, str | None] = {}
    put_off: dict[str, str] = {}
    for name, entry in entries.items():
        if isinstance(entry, TextModelEntry) and entry.optimize != "off":
            if files.state(entry) == "present" and (path := entry.source.find()):
                known = store.find(path)
                if known and known.is_put_off:
                    put_off[name] = known.reason
                else:
                    decided[name] = known.reason if known else None
    return decided, put_off
