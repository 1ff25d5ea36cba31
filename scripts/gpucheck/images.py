"""Pictures: a tiny FLUX pipeline, and on a GPU one of FLUX.1-schnell's shape with random weights
made there, each served and by the bare pipeline."""

import importlib.util
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from benchlib import ROOT, Server, Unmeasurable

from gpucheck.rows import NO_GPU, Sheet
from gpucheck.tools import Surroundings, serving

NEEDED = ("torch", "diffusers", "transformers", "accelerate", "safetensors")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
GOAL = 1.02  # times the bare pipeline's time
STEPS = 4


def run(around: Surroundings, sheet: Sheet) -> None:
    if MISSING:
        sheet.add("images", f"not run: {', '.join(MISSING)} not installed")
        return
    make_tiny_flux(around.work / "tiny-flux")
    side = 64 if around.is_quick else 256
    count = 2 if around.is_quick else 5
    compare(around, sheet, "tiny FLUX", around.work / "tiny-flux", side, count)
    if around.is_quick or not has_cuda():
        text = "not run: --quick" if has_cuda() else NO_GPU
        sheet.add("FLUX's shape, 1024 x 1024, 4 steps", text)
        for offload in ("model", "group"):
            sheet.add(f"tiny FLUX, offload = {offload}", text)
        return
    for offload in ("none", "model", "group"):
        seconds = served(around, around.work / "tiny-flux", 256, 3, f'offload = "{offload}"')
        sheet.add(f"tiny FLUX, offload = {offload}", f"{seconds:.3f} s")
    begun = time.monotonic()
    run_child("make", around.work / "flux")
    sheet.add("FLUX's shape: made and written", f"{time.monotonic() - begun:.0f} s, T5 of 2 layers")
    compare(around, sheet, "FLUX's shape", around.work / "flux", 1024, 3)


def has_cuda() -> bool:
    """Asked in a child: this process must not hold a part of the GPU."""
    program = "import torch; print(torch.cuda.is_available())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return "True" in done.stdout


def compare(
    around: Surroundings, sheet: Sheet, title: str, folder: Path, side: int, count: int
) -> None:
    what = f"{title}, {side} x {side}, {STEPS} steps"
    try:
        bare_s = float(run_child("bare", folder, side, count).split()[-1])
        sheet.add(f"{what}: the bare pipeline", f"{bare_s:.3f} s")
        served_s = served(around, folder, side, count)
        sheet.add(f"{what}: localinfra", f"{served_s:.3f} s")
        goal = f"≤ {GOAL}" if title != "tiny FLUX" else ""
        sheet.add(f"{what}: of the bare pipeline's time", f"{served_s / bare_s:.3f}", goal)
    except (Unmeasurable, OSError, ValueError) as error:
        sheet.add(what, f"FAILED: {error}")


def run_child(*arguments: object) -> str:
    """This file as a program: torch gives the memory back only at the end of a process. Raises
    Unmeasurable with its last words."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unmeasurable(f"{arguments[0]}: {done.stderr.strip()[-300:]}")
    return done.stdout


def served(around: Surroundings, folder: Path, side: int, count: int, settings: str = "") -> float:
    """The median seconds from request to PNG. Raises Unmeasurable."""
    table = f'[server]\n[model.flux]\nkind = "image"\nsource = "{folder}"\n{settings}\n'
    with serving(around, table, "flux") as server:
        seconds = [picture_s(server, side, seed) for seed in range(count + 1)]
    return statistics.median(seconds[1:])


def picture_s(server: Server, side: int, seed: int) -> float:
    fields = {"model": "flux", "prompt": f"a river {seed}", "seed": seed}
    body = fields | {"size": f"{side}x{side}", "num_inference_steps": STEPS}
    url = f"http://127.0.0.1:{server.port}/v1/images/generations"
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    begun = time.perf_counter()
    with urllib.request.urlopen(request, timeout=240) as answer:
        if not json.load(answer)["data"][0]["b64_json"]:
            raise Unmeasurable("the answer has no picture")
    return time.perf_counter() - begun


# --- Pipelines ------------------------------------------------------------------------------------


def tiny_flux() -> ModuleType:
    """scripts/make_tiny_flux as a module."""
    loader = SourceFileLoader("make_tiny_flux", str(ROOT / "scripts" / "make_tiny_flux"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def make_tiny_flux(folder: Path) -> Path:
    if not folder.exists():
        run_child("tiny", folder)
    return folder


def make(folder: Path) -> None:
    """Of FLUX.1-schnell's shape but for T5, whose depth is a small part of the time: it has two
    layers of the real width. The weights are random, made on the GPU, in bf16."""
    import torch
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    module = tiny_flux()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    transformer, decoder = cast(Any, FluxTransformer2DModel), cast(Any, AutoencoderKL)  # untyped
    real: dict[str, Any] = {
        "transformer": lambda: transformer(guidance_embeds=False),
        "vae": lambda: decoder(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
            sample_size=1024,
        ),
        "clip_encoder": lambda words: CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                projection_dim=768,
                bos_token_id=words.bos_token_id,
                eos_token_id=words.eos_token_id,
                pad_token_id=words.pad_token_id,
            )
        ),
        "t5_encoder": lambda words: T5EncoderModel(
            T5Config(  # type: ignore[call-arg]  # its base takes decoder_start_token_id
                vocab_size=len(words),
                d_model=4096,
                d_kv=64,
                d_ff=10_240,
                num_layers=2,
                num_heads=64,
                feed_forward_proj="gated-gelu",
                decoder_start_token_id=0,
            )
        ),
    }
    for name, build in real.items():
        setattr(module, name, build)
    with torch.device("cuda"):
        module.make(folder)


def bare(folder: str, side: int, count: int) -> None:
    """Prints the median seconds for an image and its PNG."""
    import io

    import torch
    from diffusers import FluxPipeline

    has_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if has_gpu else torch.float32
    pipe = cast(Any, FluxPipeline).from_pretrained(folder, dtype=dtype, local_files_only=True)
    if has_gpu:
        pipe.to("cuda")
    pipe.set_progress_bar_config(disable=True)
    seconds = []
    for seed in range(count + 1):
        begun = time.perf_counter()
        with torch.inference_mode():
            made = pipe(
                f"a river {seed}",
                width=side,
                height=side,
                num_inference_steps=STEPS,
                guidance_scale=0.0,
                max_sequence_length=256,
                generator=torch.Generator("cpu").manual_seed(seed),
            )
        made.images[0].save(io.BytesIO(), "PNG")
        seconds.append(time.perf_counter() - begun)
    print(statistics.median(seconds[1:]))


if __name__ == "__main__":
    what, where, *numbers = sys.argv[1:]
    if what == "bare":
        bare(where, *map(int, numbers))
    elif what == "tiny":
        tiny_flux().make(Path(where))
    else:
        make(Path(where))
