"""`localinfra image` against a stub server: files written, progress shown, mistakes reported."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from localinfra.cli.main import main

FILE = b"\x89PNG what the server sent"


def sent(**event: Any) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def images(body: dict[str, Any]) -> Iterator[bytes]:
    for index in range(body["n"]):
        for step in (1, 2):
            yield sent(type="image_generation.progress", index=index, step=step, steps=2)
        encoded = base64.b64encode(FILE + bytes([index])).decode()
        seed = body.get("seed", 77) + index
        yield sent(type="image_generation.completed", index=index, b64_json=encoded, seed=seed)
    yield b"data: [DONE]\n\n"


def run(stub: Any, *options: object) -> Result:
    stub.stream = images
    return CliRunner().invoke(main, ["image", "a boat", "--url", stub.url, *map(str, options)])


def test_an_image_is_written_and_its_seed_printed(stub: Any, tmp_path: Path) -> None:
    target = tmp_path / "boat.png"
    result = run(stub, "-o", target, "--size", "64x64", "--seed", 5, "--steps", 2)
    assert result.exit_code == 0, result.output
    assert target.read_bytes() == FILE + b"\0"
    assert result.stdout.startswith(f"{target} (seed 5, after ")
    assert "50%  step 1 of 2" in result.stderr and "100%  step 2 of 2" in result.stderr
    assert stub.bodies[-1] == {
        "prompt": "a boat", "size": "64x64", "n": 1, "seed": 5, "num_inference_steps": 2,
        "output_format": "png", "stream": True, "progress": True,
    }  # fmt: skip


def test_the_model_is_looked_up_before_a_server_is_started(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text("[server]\nport = 0\n")
    command = ["image", "a boat", "-o", str(tmp_path / "x.png"), "--config", str(path)]
    assert "has no image model" in CliRunner().invoke(main, command).stderr
    path.write_text(
        '[server]\nport = 0\n[model.flux]\nkind = "image"\nsource = "no/flux"\n'
        '[model.t]\nkind = "text"\nsource = "x.gguf"\n'
    )
    result = CliRunner().invoke(main, command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"there is nothing at {tmp_path}/no/flux" in result.stderr
    for name, words in (("flx", "Did you mean flux?"), ("t", "t is a text model")):
        assert words in CliRunner().invoke(main, [*command, "--model", name]).stderr


def test_several_images_are_numbered(stub: Any, tmp_path: Path) -> None:
    result = run(stub, "-o", tmp_path / "boat.jpg", "-n", 2)
    assert result.exit_code == 0
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["boat-1.jpg", "boat-2.jpg"]
    assert stub.bodies[-1]["output_format"] == "jpeg"
    assert "75%  step 1 of 2, image 2 of 2" in result.stderr


def test_progress_only_grows_when_images_are_made_together(stub: Any, tmp_path: Path) -> None:
    def together(body: dict[str, Any]) -> Iterator[bytes]:
        for step in (1, 2):
            for index in range(2):
                yield sent(type="image_generation.progress", index=index, step=step, steps=2)
        yield b"data: [DONE]\n\n"

    stub.stream = together
    target = str(tmp_path / "a.png")
    result = CliRunner().invoke(main, ["image", "x", "--url", stub.url, "-n", "2", "-o", target])
    shares = [int(line.split("%")[0]) for line in result.stderr.splitlines() if "step" in line]
    assert shares == [25, 50, 75, 100]


def test_a_picture_to_start_from_is_sent_to_edits(stub: Any, tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(b"picture")
    options = ("--from", tmp_path / "a.webp", "--mask", tmp_path / "a.webp", "--strength", 0.5)
    assert run(stub, "-o", tmp_path / "b.png", *options).exit_code == 0
    body = stub.bodies[-1]
    assert body["image"] == "data:image/webp;base64,cGljdHVyZQ==" == body["mask"]
    assert body["strength"] == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "boat.gif"], "must end in .png"),
        (["-o", "nowhere/boat.png"], "nowhere is not a folder"),
        (["--strength", "0.5"], "need --from"),
    ],
)
def test_mistakes_are_reported_before_any_request(
    stub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(stub, *options)
    assert result.exit_code == 1 and message in result.stderr
    assert not stub.bodies


def test_a_servers_refusal_is_printed(stub: Any, tmp_path: Path) -> None:
    stub.key = "secret"
    result = run(stub, "-o", tmp_path / "boat.png")
    assert result.exit_code == 1 and "Wrong key" in result.stderr
    assert list(tmp_path.iterdir()) == []
