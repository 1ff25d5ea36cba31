"""What `localinfra doctor` tells of the settings: which models can be served, which can't and why,
and what brings the files of those that are not here.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from localinfra.cli.findings import Finding
from localinfra.models import files
from localinfra.models.catalog import table_of
from localinfra.models.entries import ModelEntry, TextModelEntry
from localinfra.models.sources import HubSource
from localinfra.optimize import store


def check_models(path: Path, entries: Mapping[str, ModelEntry]) -> Iterator[Finding]:
    ready = [name for name, entry in entries.items() if files.state(entry) == "present"]
    if not entries:
        yield Finding("problem", f'{path} names no model: give it a [model."NAME"] table')
    elif not ready:
        yield Finding("problem", f"{path}: none of its models can be served")
    else:
        yield Finding("ok", f"{path}: {', '.join(ready)}")
    for name, entry in entries.items():
        yield from check_files(name, entry)


def check_files(name: str, entry: ModelEntry) -> Iterator[Finding]:
    command = entry.source.command() or ""
    for problem in files.problems(entry, is_thorough=True):
        is_partial = isinstance(entry.source, HubSource) and entry.source.file is None
        text = f"{table_of(name, entry)} {problem}"
        yield Finding("failed" if is_partial else "problem", text, command)
    if entry.source.find() is None:
        size = f" ({entry.download_gb:g} GB)" if entry.download_gb else ""
        why = f"its files are not here{size}" if command else entry.source.remedy(name)
        yield Finding("hint", f"{name}: {why}", command)


def part_of(entry: ModelEntry) -> str | None:
    """The optional part without which a model whose files are here can't be served."""
    path = entry.source.find()
    return entry.extra(path) if path else None


def look_at_weights(
    entries: Mapping[str, ModelEntry],
) -> tuple[dict[str, str | None], dict[str, str]]:
    """What was decided for each model, and why nothing could be for others."""
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
