"""What `serve` does before it answers: checks the models' files and, once per machine, looks for
weights that are faster on its CPU.

Requests would distort the measurement, and it would slow them down, so it comes first. Owns when
that happens and how long it may take; if anything goes wrong, the original is served.
"""

from pathlib import Path

import click

from localinfra.cli.progress import ProgressLine
from localinfra.config.settings import shipped_file
from localinfra.errors import ApiError, ConfigError
from localinfra.models import files
from localinfra.models.catalog import Catalog, table_of
from localinfra.models.entries import TextModelEntry
from localinfra.optimize import store

# An idle machine with two cores needs half of this for 100 MB.
LIMIT_S, LIMIT_S_PER_GB = 60, 120


def check_files(catalog: Catalog, path: Path) -> None:
    """Raises ConfigError if files are not what their tables say, with a line for each. A hub folder
    may be half downloaded: that is only a warning, and the other models are served.

    `path` is the settings file; warns if it has no model.
    """
    if not catalog.entries:
        click.echo(no_models(path), err=True)
    refused = []
    for name, entry in catalog.entries.items():
        for problem in files.problems(entry):
            line = f"{path}: {table_of(name, entry)} {problem}"
            if entry.source.is_repository:
                click.echo(f"{line}. {name} can't be used until that is fixed.", err=True)
            else:
                refused.append(line)
    if refused:
        raise ConfigError("\n".join(refused))


def no_models(path: Path) -> str:
    return (
        f"{path} has no model to serve. Add a table for each, such as\n\n"
        '  [model."my-model"]\n  kind = "text"\n  source = "/models/my-model.gguf"\n\n'
        f"More examples are in {shipped_file()}.\n"
    )


def undecided(catalog: Catalog) -> dict[str, TextModelEntry]:
    """The models with `optimize` on whose files are here and not yet measured on this machine.

    Takes milliseconds and does not import llama.cpp, since every start calls it.
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
    """Measures other weight types, keeps a faster one, and prints progress. Raises nothing but
    KeyboardInterrupt."""
    from localinfra.optimize.run import OptimizeFailed, run
    from localinfra.text.loading import optimize_job

    try:
        job = optimize_job(name, entry, lossless_only=True, keep=True)
    except ApiError as error:  # missing, damaged, or on a GPU: loading will report that too
        click.echo(f"Not looking for faster weights: {error}", err=True)
        return
    path = entry.source.find()
    assert path, "a job has a file"
    limit_s = LIMIT_S + LIMIT_S_PER_GB * path.stat().st_size / 1e9
    click.echo(
        f"Looking for faster weights of {name} for this CPU. This happens once and takes "
        f'at most {limit_s:.0f} s; optimize = "off" in models.toml skips it.',
        err=True,
    )
    line = ProgressLine()
    try:
        report = run(job, lambda progress: line.show(progress.fraction, progress.text), limit_s)
        line.end()
        if not report.is_steady and not report.kept:
            raise OptimizeFailed("other programs kept the machine too busy to measure")
        where = f"; saved as {report.kept}" if report.kept else ", so the original is served"
        click.echo(f"  {report.reason}{where}", err=True)
    except OptimizeFailed as error:
        line.end()
        click.echo(f"  Serving the original: {error}.", err=True)
        try:
            store.put_off(path, str(error), error.is_final)
        except (store.CacheUnusable, OSError):
            return  # already reported, if that was the reason
        if not error.is_final:
            click.echo(f"  To try again now: localinfra optimize {name} --apply", err=True)
