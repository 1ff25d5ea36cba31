"""`localinfra image`: images from a prompt, made by a running server or one started for it.

Knows the API, not the pipeline: requests a stream, shows its progress and writes the files.
"""

import base64
import mimetypes
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import click
import msgspec

from localinfra.cli.client import Client
from localinfra.cli.connect import connect
from localinfra.cli.progress import ProgressLine
from localinfra.errors import ApiError
from localinfra.models.catalog import Catalog
from localinfra.models.sources import locate

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


class ImageStreamEvent(msgspec.Struct):
    """An event of OpenAI's image streams, or one of our progress events."""

    type: str
    index: int = 0
    step: int = 0
    steps: int = 1
    b64_json: str = ""
    seed: int = 0


@click.command("image")
@click.argument("prompt")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), default=Path("image.png"),
    show_default=True, help="A .png, .jpg or .webp file; several are numbered.",
)  # fmt: skip
@click.option("--model", help="The image model; default: FLUX.1 Schnell, or the first one served.")
@click.option("--size", default="auto", show_default=True, help="Such as 1024x768.")
@click.option("-n", "--number", type=click.IntRange(1, 10), default=1, help="How many images.")
@click.option("--seed", type=click.IntRange(0), help="Makes the same image again.")
@click.option("--steps", type=click.IntRange(1, 50), help="More steps: slower, finer images.")
@click.option(
    "--from", "picture", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A picture to start from.",
)  # fmt: skip
@click.option(
    "--mask", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="An image; its transparent part marks what may change.",
)  # fmt: skip
@click.option(
    "--strength", type=click.FloatRange(0, 1, min_open=True), help="How much the picture changes."
)
@click.option("--url", envvar="LOCALINFRA_URL", help="The server to use.")
@click.option("--key", envvar="LOCALINFRA_API_KEY", help="Its API key.")
@click.option(
    "--config", type=click.Path(path_type=Path), help="Start a server with this models.toml."
)
def image(
    prompt: str,
    output: Path,
    model: str | None,
    size: str,
    number: int,
    seed: int | None,
    steps: int | None,
    picture: Path | None,
    mask: Path | None,
    strength: float | None,
    url: str | None,
    key: str | None,
    config: Path | None,
) -> None:
    """Make an image of PROMPT.

    Uses the server at --url or the one that models.toml describes, or starts one and stops it
    afterwards. The same --seed, size and steps make the same image again; a PNG records them.
    """
    if output.suffix.lower() not in FORMATS:
        raise ApiError(f"{output}: the name must end in {', '.join(FORMATS)}.")
    if not output.parent.is_dir():
        raise ApiError(f"{output.parent} is not a folder: create it, or choose another --output.")
    if (mask or strength) and not picture:
        raise ApiError("--mask and --strength need --from, the picture to start from.")
    wanted = {
        "prompt": prompt,
        "model": model,
        "size": size,
        "n": number,
        "seed": seed,
        "num_inference_steps": steps,
        "output_format": FORMATS[output.suffix.lower()],
        "stream": True,
        "progress": True,
        "image": data_url(picture),
        "mask": data_url(mask),
        "strength": strength,
    }
    body = {name: value for name, value in wanted.items() if value is not None}
    path = f"/v1/images/{'edits' if picture else 'generations'}"
    with ExitStack() as stack:
        client = connect(stack, url, key, config, lambda catalog: check(catalog, model))
        paint(client, path, body, output, number)


def check(catalog: Catalog, name: str | None) -> None:
    """Raises ApiError if no image could be made; called before a server is started for it."""
    if name is None:
        name = next((name for name, e in catalog.entries.items() if e.kind == "image"), None)
    if name is None:
        raise ApiError('models.toml has no image model: add a table with kind = "image".')
    found, entry = catalog.resolve(name)
    if entry.kind != "image":
        raise ApiError(f"{found} is {entry.article}: it can't make images.")
    locate(found, entry.source)


def paint(client: Client, path: str, body: dict[str, Any], output: Path, number: int) -> None:
    """Writes each image as soon as it is finished."""
    line = ProgressLine()
    started = time.monotonic()
    line.show(0, "loading the model")
    done = [0.0] * number  # of each image
    try:
        with closing(client.stream(path, body, ImageStreamEvent)) as events:
            for event in events:
                if event.type.endswith(".progress"):
                    done[event.index] = event.step / event.steps
                    which = f", image {event.index + 1} of {number}" if number > 1 else ""
                    line.show(sum(done) / number, f"step {event.step} of {event.steps}{which}")
                elif event.type.endswith(".completed"):
                    line.end()
                    file = numbered(output, event.index, number)
                    file.write_bytes(base64.b64decode(event.b64_json))
                    passed = time.monotonic() - started
                    click.echo(f"{file} (seed {event.seed}, after {passed:.1f} s)")
    except OSError as error:
        raise ApiError(f"{output} can't be written: {error.strerror}") from None
    finally:
        line.end()


def numbered(output: Path, index: int, number: int) -> Path:
    return output if number == 1 else output.with_stem(f"{output.stem}-{index + 1}")


def data_url(file: Path | None) -> str | None:
    if file is None:
        return None
    media_type = mimetypes.guess_type(file.name)[0] or "image/png"
    return f"data:{media_type};base64,{base64.b64encode(file.read_bytes()).decode()}"
