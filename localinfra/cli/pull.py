"""`localinfra pull`: says what a model takes, fetches it, and says how to use it."""

import shlex
import threading
from collections.abc import Sequence
from pathlib import Path

import click

from localinfra.cli.memory import fit, size, weights_fit
from localinfra.cli.progress import ProgressLine
from localinfra.config import settings as config_file
from localinfra.config.settings import ServerSettings
from localinfra.models import catalog, quants
from localinfra.models.catalog import Catalog
from localinfra.models.entries import TextModelEntry
from localinfra.models.fetch import pull as pulling
from localinfra.models.fetch import references
from localinfra.models.fetch.peek import peek
from localinfra.models.fetch.plan import Plan
from localinfra.models.fetch.progress import PullProgress
from localinfra.models.gguf.reader import GgufHeader
from localinfra.models.sources import HubSource, RemoteSource, UrlSource

INTERRUPTED = 130  # as shells report a command ended by Ctrl-C
MOST_ROWS = 6  # of files that are shown one by one


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--config", "path", type=click.Path(path_type=Path), help="Another models.toml.")
@click.option("--dry-run", is_flag=True, help="Only show what would be fetched.")
def pull(models: Sequence[str], path: Path | None, dry_run: bool) -> None:
    """Fetch models: their sizes, licenses and memory first, then their files.

    \b
    MODEL is one of
      NAME                    a model of models.toml
      hf:OWNER/REPO[:QUANT]   of Hugging Face: its GGUF file (Q4_K_M, else Q8_0, if no
                              QUANT is named), or the folder of an embedder or pipeline
      hf:OWNER/REPO/FILE      one file of it
      ollama:NAME[:TAG]       of Ollama's registry
      https://...             a page or a file of Hugging Face, or any GGUF file

    A pull that was interrupted goes on where it was. Files that other programs have
    fetched are used where they are.
    """
    config = config_file.load(path)
    known = catalog.discover(config)
    try:
        plans = [plan for text in models for plan in prepare(text, known, config.server)]
        if dry_run:
            return
        for plan in plans:
            result = carry_out(plan)
            click.echo(f"Here: {result}")
            for line in uses(plan, result, catalog.discover(config_file.load(path))):
                click.echo(line)
    except KeyboardInterrupt:
        words = " ".join(models)
        click.echo(f"\nStopped. What came is kept: `localinfra pull {words}` goes on.", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None


def prepare(
    text: str, known: Catalog, settings: ServerSettings, *, to_stderr: bool = False
) -> list[Plan]:
    """Makes the plans for one reference, and shows them."""
    plans = []
    for source in references.parse(text, known):
        plan = pulling.plan(source)
        for line in description(plan, peek(plan, threading.Event()), settings):
            click.echo(line, err=to_stderr)
        pulling.check_room(plan)
        plans.append(plan)
    return plans


def carry_out(plan: Plan) -> Path:
    line = ProgressLine()
    try:
        return pulling.fetch(plan, lambda progress: show(line, progress), threading.Event())
    finally:
        line.end()


def show(line: ProgressLine, progress: PullProgress) -> None:
    done, total = progress.done_bytes, progress.total_bytes
    if not total or (done == total and progress.stage != "verifying"):
        return
    if not line.is_terminal:  # a line at each tenth
        tenth = done * 10 // total
        line.show(tenth / 10, f"{size(total * tenth // 10)} of {size(total)}")
        return
    doing = {"fetching": "", "waiting": "another process fetches it; ", "verifying": "verifying; "}
    rate = f"  {size(int(progress.rate))}/s" if progress.rate else ""
    left = f"  {duration(progress.left_s)} left" if progress.left_s is not None else ""
    text = f"{doing[progress.stage]}{size(done)} of {size(total)}{rate}{left}"
    line.show(done / total, f"{text}  {shortened(progress.file)}")


def description(plan: Plan, header: GgufHeader | None, settings: ServerSettings) -> list[str]:
    if not plan.files:
        return [plan.source.text, f"  is here: {plan.result}"]
    rows = [(file.blob.size_bytes, file.blob.name) for file in plan.files]
    if len(rows) > 1:
        rows = [*(rows if len(rows) <= MOST_ROWS else []), (plan.total_bytes, f"{len(rows)} files")]
    total = plan.total_bytes
    here = total - plan.missing_bytes
    memory = weights_fit(total)
    if header:
        memory = fit(TextModelEntry(source=plan.source), Path(header.path), header, settings)
    return [
        plan.source.text,
        *(f"{size(count):>10}  {name}" for count, name in rows),
        *([f"{size(here):>10}  of it here already"] if here else []),
        f"  license: {plan.license or 'not stated'}",
        f"  memory: {memory}",
    ]


def uses(plan: Plan, result: Path, known: Catalog) -> list[str]:
    """How to use what was fetched."""
    if name := known.name_at(result):
        if known.entries[name].kind != "text":
            return [f"It answers as {name}."]
        return [f"It answers as {name}. Try it: localinfra run {shlex.quote(name)}"]
    kind = "text" if plan.model or result.is_file() else kind_of(result)
    return [
        "Serve it with these lines in models.toml:",
        f'  [model."{name_of(plan.source)}"]',
        f'  kind = "{kind}"',
        f'  source = "{plan.source.text}"',
    ]


def kind_of(folder: Path) -> str:
    if (folder / "model_index.json").exists():
        return "image"
    return "embedding" if (folder / "modules.json").exists() else "rerank"


def name_of(source: RemoteSource) -> str:
    if isinstance(source, HubSource):
        quant = source.quant or (quants.quant_of(source.file) if source.file else "")
        return f"{source.repo}:{quant}" if quant else source.repo
    if isinstance(source, UrlSource):
        return source.own_path.stem
    return source.text.rpartition("/")[2].removeprefix("ollama:")


def duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def shortened(name: str, limit: int = 30) -> str:
    return name if len(name) <= limit else f"…{name[1 - limit :]}"
