"""`localinfra show`: what a model is, and what it takes."""

import math
from collections.abc import Iterator
from pathlib import Path

import click

from localinfra.cli.completion import complete_models
from localinfra.cli.memory import fit_of, planned, sharing, size, steps, weights_fit
from localinfra.cli.projectors import rows_of_senses
from localinfra.config import settings as config_file
from localinfra.config.settings import ServerSettings
from localinfra.errors import ApiError
from localinfra.models import catalog, files
from localinfra.models.entries import ModelEntry, TextModelEntry
from localinfra.models.gguf.reader import BadGguf, GgufHeader, read_header
from localinfra.models.histories import history_of
from localinfra.models.sampling import SamplingSettings, recommended_in

Row = tuple[str, str]


@click.command()
@click.argument("model", shell_complete=complete_models)
@click.option("--config", "path", type=click.Path(path_type=Path), help="Another models.toml.")
def show(model: str, path: Path | None) -> None:
    """Show what MODEL is: its files, size, context, chat template and sampling."""
    config = config_file.load(path)
    name, entry = catalog.discover(config).find(model)
    rows = [("name", name), *rows_of(name, entry)]
    if entry.source.find():
        rows += rows_of_memory(name, entry, config.server)
    width = max(len(title) for title, _ in rows)
    for title, text in rows:
        click.echo(f"{title.ljust(width)}  {text}")


def rows_of(name: str, entry: ModelEntry) -> Iterator[Row]:
    """Titles and texts. Raises ApiError if the files can't be used."""
    yield "kind", entry.kind
    if entry.aliases:
        yield "aliases", ", ".join(entry.aliases)
    if entry.description:
        yield "about", entry.description
    found = entry.source.find()
    if found is None:
        yield "files", f"not here: {entry.source.remedy(name)}"
        return
    yield "files", f"{found} ({size(bytes_of(found))})"
    for problem in files.problems(entry):
        yield "problem", problem
    if words := history_of(entry).words:
        yield "trouble", words
    if found.is_file():
        try:
            header = read_header(found, embeds=not isinstance(entry, TextModelEntry))
        except BadGguf as error:
            raise ApiError(str(error)) from None
        yield from rows_of_header(entry, header)


def rows_of_memory(name: str, entry: ModelEntry, settings: ServerSettings) -> Iterator[Row]:
    """What it takes with its settings on this machine, if no other model is loaded."""
    if not isinstance(entry, TextModelEntry):
        found = entry.source.find()
        yield "memory", weights_fit(bytes_of(found) if found else 0)
        return
    from localinfra.text.loading import weights

    plan, room = planned(entry, *weights(name, entry), settings)
    yield "prompts", f"read in {steps(entry, plan)}"
    yield "memory", fit_of(entry, plan, room)


def rows_of_header(entry: ModelEntry, header: GgufHeader) -> Iterator[Row]:
    from localinfra.optimize.choose import main_type

    num_weights = sum(math.prod(tensor.shape) for tensor in header.tensors)
    parts = f", {header.num_parts} files" if header.num_parts > 1 else ""
    weights = f"{count(num_weights)} weights, mostly {main_type(header).upper()}{parts}"
    yield "model", f"{header.architecture}, {weights}"
    for title, key in (("license", "general.license"), ("base", "general.base_model.0.repo_url")):
        if isinstance(text := header.metadata.get(key), str):
            yield title, text.splitlines()[0][:200] if text else ""
    length = entry.details.context_length
    served = f"{length:,} tokens" if length else "as memory allows"
    yield "context", f"{served}; trained for {header.context_length:,}"
    if isinstance(entry, TextModelEntry):
        if words := sharing(entry, header):
            yield "prefixes", words
        yield from rows_of_mtp(entry, header)
        yield from rows_of_senses(entry, header)
        yield from rows_of_chat(entry, header)


def rows_of_mtp(entry: TextModelEntry, header: GgufHeader) -> Iterator[Row]:
    """Whether its own layers draft, where it has some."""
    from localinfra.models.gguf.mtp import mtp_problem

    if entry.mtp:
        yield "drafts", mtp_problem(header) or "by its own MTP layer"
    elif not mtp_problem(header):
        yield "drafts", "not by its own MTP layer: for that, set mtp = true"


def rows_of_chat(entry: TextModelEntry, header: GgufHeader) -> Iterator[Row]:
    template = entry.chat_template or header.chat_template
    yield "template", form_of(template) if template else "none: completions only"
    recommended = entry.recommended or recommended_in(header.metadata)
    if recommended:
        yield "recommended", named(recommended)
    if entry.sampling.given:
        yield "sampling", named(entry.sampling)


def form_of(source: str) -> str:
    """What is learned from a chat template."""
    from localinfra.chat.sandbox.environment import SANDBOX
    from localinfra.chat.sandbox.meter import LimitExceeded
    from localinfra.chat.voice import voice_of

    try:
        voice = voice_of(source, SANDBOX.compiled(source), "<s>", "</s>")
    except (Exception, LimitExceeded) as error:
        return f"can't be used: {error}"
    own = f"its own tool calls, at {voice.calls.trigger!r}" if voice.writes_calls else ""
    calls = own or "tool calls in a generic form"
    marks = voice.reasoning
    return f"{calls}; reasoning between {marks.begin!r} and {marks.end!r}" if marks else calls


def named(sampling: SamplingSettings) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in sampling.given.items())


def bytes_of(path: Path) -> int:
    from localinfra.models.fetch.removal import files_of, total_bytes

    return total_bytes(files_of(path))


def count(number: int) -> str:
    """134.5M, 8.03B."""
    if number < 1_000_000:
        return f"{number:,}"
    return f"{number / 1e9:.2f}B" if number >= 1e9 else f"{number / 1e6:.1f}M"
