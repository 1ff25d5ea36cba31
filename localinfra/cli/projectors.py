"""What models see and hear, for `localinfra show` and `localinfra doctor`: by which projector, how
much memory that takes, and why one is not used. Reads headers; loads no library."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from localinfra.cli.findings import Finding
from localinfra.cli.memory import size
from localinfra.models.entries import ModelEntry, TextModelEntry
from localinfra.models.gguf.hearing import hears, kind_of_ears, longest_seconds
from localinfra.models.gguf.projector import kind_of_projector, sees, working_bytes
from localinfra.models.gguf.reader import BadGguf, GgufHeader, read_header, read_projector
from localinfra.models.trials import crash_with

Row = tuple[str, str]


def rows_of_senses(entry: TextModelEntry, header: GgufHeader) -> Iterator[Row]:
    """Whether it sees and hears, where it has a projector or could have."""
    if entry.mmproj and entry.vision and entry.projector is None:
        yield "vision", f"not yet: {entry.mmproj.remedy('it', 'mmproj')}"
        return
    if path := entry.projector:
        try:
            found = usable(path, header)
        except BadGguf as error:
            yield "vision", f"no: {error}"
            return
        by = f"by {path.name} ({{}}, {size(memory_of(found))} in memory)"
        yield "vision", by.format(kind_of_projector(found)) if sees(found) else "no"
        if hears(found):
            longest = f"{longest_seconds(found) / 60:g} minutes at a time"
            yield "hearing", f"{by.format(kind_of_ears(found))}, {longest}"
    for unused in unused_beside(entry, header):
        yield "vision", f"not by {unused.name}, which may belong to other models; name it as mmproj"


def check_projectors(entries: Mapping[str, ModelEntry]) -> Iterator[Finding]:
    """Of the text models whose files are here. Those that are damaged are reported elsewhere."""
    for name, entry in entries.items():
        path = entry.source.find()
        if path is None or not isinstance(entry, TextModelEntry):
            continue
        try:
            header = read_header(path)
        except BadGguf:
            continue
        yield from _findings(name, entry, header)


def _findings(name: str, entry: TextModelEntry, header: GgufHeader) -> Iterator[Finding]:
    if entry.mmproj and entry.vision and entry.projector is None:
        command = entry.mmproj.command(name) or ""
        yield Finding("hint", f"{name} does not see yet: its projector is missing", command)
    if path := entry.projector:
        try:
            found = usable(path, header)
        except BadGguf as error:
            # One that merely lies beside the model is left out.
            yield Finding("problem" if entry.mmproj else "failed", f"{name}: {error}")
        else:
            words = {"sees": sees(found), "hears": hears(found)}
            reads = " and ".join(word for word, does in words.items() if does)
            memory = size(memory_of(found))
            yield Finding("ok", f"{name} {reads} by {path.name}, {memory} in memory")
    for unused in unused_beside(entry, header):
        yield Finding(
            "hint",
            f"{name} does not use {unused}, which fits it, since other models lie beside it too. "
            f'Name it: mmproj = "{unused}" in the table of {name} in models.toml',
        )


def usable(path: Path, model: GgufHeader) -> GgufHeader:
    """The projector's header. Raises BadGguf, also if it has crashed in its trial."""
    found = read_projector(path, model)
    if crash := crash_with([path, Path(model.path)]):
        raise BadGguf(path, f"{crash}; `localinfra reload` has a running server try it again")
    return found


def memory_of(projector: GgufHeader) -> int:
    return projector.tensor_bytes + working_bytes(projector)


def unused_beside(entry: TextModelEntry, model: GgufHeader) -> Iterator[Path]:
    """Projectors in the model's folder that fit it, if it has none."""
    if not entry.vision or entry.mmproj or entry.projector:
        return
    for path in sorted(Path(model.path).parent.glob("*.gguf")):
        if "mmproj" in path.name.lower():
            try:
                read_projector(path, model)
            except BadGguf:
                continue
            yield path
