"""`localinfra optimize`: other types of a model's weights, measured on this machine."""

from collections.abc import Sequence
from pathlib import Path

import click

from localinfra import machine
from localinfra.cli.list import table
from localinfra.cli.progress import ProgressLine
from localinfra.config import settings as config_file
from localinfra.errors import ApiError
from localinfra.models import catalog
from localinfra.models.catalog import table_of
from localinfra.models.entries import TextModelEntry
from localinfra.optimize import choose
from localinfra.optimize.choose import MeasuredType
from localinfra.optimize.job import Report
from localinfra.optimize.run import OptimizeFailed, run
from localinfra.text.loading import optimize_job

HEADER = ("TYPE", "SIZE", "PROMPT", "1 STREAM", "8 STREAMS", "SPEED", "KL", "PERPLEXITY", "")
LEGEND = """\
PROMPT, 1 STREAM, 8 STREAMS tokens per second: prefill, decode of one answer, decode of eight
SPEED                       times as fast as now; one stream counts half
KL                          divergence of the next token's distribution from the F16 weights'
PERPLEXITY                  of the bundled text, ± two standard errors of the difference from now
lossless                    KL at most 1.5 times and 0.001 above that of now"""


@click.command()
@click.argument("model")
@click.option("--config", "path", type=click.Path(path_type=Path), help="Another models.toml.")
@click.option(
    "--apply", is_flag=True, help="Save the best lossless type in the cache, to be served."
)
def optimize(model: str, path: Path | None, apply: bool) -> None:
    """Measure other types of MODEL's weights on this CPU: speed, size and loss.

    Takes half a minute for a small model. Changes nothing without --apply, and never the original
    file.
    """
    name, entry = catalog.load(config_file.load(path)).resolve(model)
    if not isinstance(entry, TextModelEntry):
        raise ApiError(f"{name} is {entry.article}; only a text model's GGUF file can be optimized")
    job = optimize_job(name, entry, lossless_only=False, keep=apply)
    click.echo(f"Measuring {job.source}; close other busy programs.", err=True)
    line = ProgressLine()
    try:
        report = run(job, lambda progress: line.show(progress.fraction, progress.text))
    except OptimizeFailed as error:
        raise ApiError(f"{name} could not be measured: {error}") from None
    finally:
        line.end()
    for row in table([HEADER, *rows(report)]):
        click.echo(row)
    click.echo(f"\n{LEGEND}\n\non {machine.cpu()}, llama-cpp-python {machine.llama_build()}\n")
    for advice in next_steps(name, entry, report, apply):
        click.echo(advice)


def rows(report: Report) -> list[Sequence[str]]:
    others = sorted(
        report.candidates, key=lambda one: choose.gain(one, report.original), reverse=True
    )
    return [cells(one, report.original) for one in (report.original, *others)]


def cells(one: MeasuredType, original: MeasuredType) -> Sequence[str]:
    assert one.speed and one.loss, "a full report has both"
    is_original = one is original
    notes = ["now"] if is_original else []
    if not is_original and choose.is_lossless(one, original):
        notes.append("lossless")
    error = "" if is_original else f" ± {2 * one.loss.perplexity_error:.2f}"
    return (
        one.type.upper(),
        f"{one.size_bytes / 1e6:,.0f} MB",
        f"{one.speed.prompt:.0f}",
        f"{one.speed.one_stream:.0f}",
        f"{one.speed.streams:.0f}",
        f"{choose.gain(one, original):.2f}",
        f"{one.loss.mean_kl:.4f}",
        f"{one.loss.perplexity:.2f}{error}",
        ", ".join(notes),
    )


def next_steps(name: str, entry: TextModelEntry, report: Report, applied: bool) -> list[str]:
    steps = []
    if not report.is_steady:
        steps.append(
            "Other programs disturbed the measurement, so the speeds may be wrong: try again."
        )
    steps.append(report.reason[0].upper() + report.reason[1:] + ".")
    if report.winner and not applied:
        steps.append(f"Keep it: localinfra optimize {name} --apply")
    if report.kept:
        steps.append(f"Saved as {report.kept}; the original is unchanged.")
        serves = "The server serves it from its next start"
        if entry.optimize == "off":
            serves += f' with optimize = "lossless" in {table_of(name, entry)} of models.toml'
        steps.append(f"{serves}.")
    return steps
