"""What `serve` does before it listens: a look at the models' files, and once on a machine weights
that suit its CPU.

Before and not beside serving: a measurement would be spoilt by requests, and slow them down. Owns
when that happens and how long it may take; whatever goes wrong, the original is served.
"""

from pathlib import Path

import click

from localinfra.cli.progress import ProgressLine
from localinfra.config.settings import shipped_file
from localinfra.errors import ApiError, ConfigError
from localinfra.models import files
from localinfra.models.catalog import Catalog, table_of
from localinfra.models.entries import TextModelEntry
from localinfra.models.sources import HubSource
from localinfra.optimize import store

# A quiet machine with two cores takes half of it for 100 MB.
LIMIT_S, LIMIT_S_PER_GB = 60, 120


def check_files(catalog: Catalog, path: Path) -> None:
    """Raises ConfigError for a source that can't be what its table says, with a line for each. A
    folder of the hub may be half fetched: that is told, and the others are served.

    `path` is the settings file; that it names no model is told too.
    """
    if not catalog.entries:
        click.echo(no_models(path), err=True)
    refused = []
    for name, entry in catalog.entries.items():
        for problem in files.problems(entry):
            told = f"{path}: {table_of(name, entry)} {problem}"
            if isinstance(entry.source, HubSource) and entry.source.file is None:
                click.echo(f"{told}. {name} can't be used until that is fixed.", err=True)
            else:
                refused.append(told)
    if refused:
        raise ConfigError("\n".join(refused))


def no_models(path: Path) -> str:
    return (
        f"{path} names no model, so there is nothing to ask. Write a table for each, such as\n\n"
        '  [model."my-model"]\n  kind = "text"\n  source = "/models/my-model.gguf"\n\n'
        f"More examples are in {shipped_file()}.\n"
    )


def undecided(catalog: Catalog) -> dict[str, TextModelEntry]:
    """The models that are here and ask for it, and that nothing was decided for on this machine.

    Takes milliseconds and imports no llama.cpp, since every start asks.
    """
    return {
        name: entry
        for name, entry in catalog.entries.items()
        if isinstance(entry, TextModelEntry)
        and entry.optimize == "lossless"
        and (path := entry.source.find()) is not None
        and store.find(path) is None
    }


def fit_weights(name: str, entry: TextModelEntry) -> None:
    """Measures, and keeps what is better; tells what it does. Raises nothing but Ctrl-C."""
    from localinfra.optimize.run import OptimizeFailed, run
    from localinfra.text.loading import optimize_job

    try:
        job = optimize_job(name, entry, lossless_only=True, keep=True)
    except ApiError as error:  # absent, damaged, or on a GPU: loading it says the same, louder
        click.echo(f"No faster weights are looked for: {error}", err=True)
        return
    path = entry.source.find()
    assert path, "a job has a file"
    limit_s = LIMIT_S + LIMIT_S_PER_GB * path.stat().st_size / 1e9
    click.echo(
        f"Looking for faster weights of {name} for this CPU. This happens once and takes "
        f'{limit_s:.0f} s at most; optimize = "off" in models.toml skips it.',
        err=True,
    )
    line = ProgressLine()
    try:
        report = run(job, lambda progress: line.show(progress.fraction, progress.text), limit_s)
        line.end()
        if not report.is_steady and not report.kept:
            raise OptimizeFailed("other programs kept the machine too busy to measure")
        where = f"; kept as {report.kept}" if report.kept else ", so it is served as it is"
        click.echo(f"  {report.reason}{where}", err=True)
    except OptimizeFailed as error:
        line.end()
        click.echo(f"  The original is served: {error}.", err=True)
        try:
            store.put_off(path, str(error), error.is_final)
        except (store.CacheUnusable, OSError):
            return  # said already, if that was the reason
        if not error.is_final:
            click.echo(f"  To try again at once: localinfra optimize {name} --apply", err=True)
