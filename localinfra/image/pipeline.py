"""FLUX through diffusers: the only importer of it. A folder → a painter.

Settings follow the device and its free memory; each can be set in models.toml. What this version
of diffusers does wrong is worked around here: see the comments.
"""

import contextlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from localinfra.errors import ModelUnavailable
from localinfra.image.request import Event, ImageRequest, Preview, Step

logger = logging.getLogger(__name__)

PIPELINES = ("FluxPipeline",)
MAX_PROMPT_TOKENS = 256  # that T5 reads for schnell; CLIP reads 77
KEPT_PROMPTS = 8  # encoded: the same prompt with another seed needs no T5
PREVIEW_SCALE = 4  # previews have a fourth of the size, so a sixteenth of the work
GIB = 2**30

Offload = Literal["none", "model", "group"]


class Placement(msgspec.Struct, frozen=True):
    """Where and how the weights are computed."""

    device: str  # cuda, mps or cpu
    dtype: str
    offload: Offload  # model: parts move to the GPU when needed; group: layers do
    tiles_vae: bool  # decodes in tiles, for large images in little memory


class PlacementWishes(msgspec.Struct, frozen=True):
    """What models.toml says; None is for the machine to decide."""

    device: str | None = None
    dtype: str | None = None
    offload: Offload | None = None
    tiles_vae: bool | None = None
    transformer: Path | None = None  # a GGUF file in place of the folder's own


def decide(wishes: PlacementWishes, part_bytes: dict[str, int], free: dict[str, int]) -> Placement:
    """`part_bytes` are the sizes of the pipeline's parts; `free` the free bytes of each device that
    torch can use, in order of preference, the CPU last with 0."""
    device = wishes.device or next(iter(free))
    dtype = wishes.dtype or ("float32" if device == "cpu" else "bfloat16")
    offload: Offload = "none"
    if device == "cuda":
        room = free.get("cuda", 0) / 1.3  # activations take some
        if sum(part_bytes.values()) > room:
            offload = "model" if max(part_bytes.values()) <= room else "group"
    tiles = device != "cpu" and free.get(device, 0) < 8 * GIB
    return Placement(
        device,
        dtype,
        wishes.offload or offload,
        tiles if wishes.tiles_vae is None else wishes.tiles_vae,
    )


def check_folder(folder: Path) -> None:
    """That it is a pipeline of a kind known here, and that no pickle would be read."""
    index = folder / "model_index.json"
    try:
        name = json.loads(index.read_text())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelUnavailable(
            f"{folder} is no diffusers pipeline: it has no model_index.json that can be read.",
            "model",
        ) from None
    if name not in PIPELINES:
        raise ModelUnavailable(
            f"{folder} is a {name}; {' and '.join(PIPELINES)} can be served.", "model"
        )
    for weights in folder.glob("*/*.bin"):
        if not list(weights.parent.glob("*.safetensors")):
            raise ModelUnavailable(
                f"{weights} is a Python pickle, which can run code; only safetensors are read.",
                "model",
            )


def part_sizes(folder: Path, transformer: Path | None) -> dict[str, int]:
    """Bytes of the weights of each part, as they are stored."""
    sizes: dict[str, int] = {}
    for file in folder.glob("*/*.safetensors"):
        sizes[file.parent.name] = sizes.get(file.parent.name, 0) + file.stat().st_size
    if transformer:
        sizes["transformer"] = transformer.stat().st_size
    return sizes


class FluxPainter:
    """Owns the pipeline. One thread at a time. Raises ModelUnavailable with what to do."""

    def __init__(self, folder: Path, wishes: PlacementWishes):
        check_folder(folder)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        import diffusers
        import torch
        from transformers.utils import logging as transformers_logging

        # Both write users' prompts into the log where they are cut.
        transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        diffusers.utils.logging.set_verbosity_error()
        diffusers.utils.logging.disable_progress_bar()
        self._torch = torch
        sizes = part_sizes(folder, wishes.transformer)
        self.placement = decide(wishes, sizes, free_memory(torch))
        self._pipe = self._load(diffusers, folder, wishes.transformer)
        self._pipe.set_progress_bar_config(disable=True)
        self._place()
        self._prompts: OrderedDict[str, tuple[Any, Any]] = OrderedDict()

    def _load(self, diffusers: Any, folder: Path, transformer: Path | None) -> Any:
        dtype = getattr(self._torch, self.placement.dtype)
        options: dict[str, Any] = {"dtype": dtype, "local_files_only": True}
        try:
            if transformer:
                quantization = None
                if transformer.suffix == ".gguf":
                    quantization = diffusers.GGUFQuantizationConfig(compute_dtype=dtype)
                # Without `config` it would ask the hub which model this is.
                options["transformer"] = diffusers.FluxTransformer2DModel.from_single_file(
                    str(transformer),
                    config=str(folder),
                    subfolder="transformer",
                    quantization_config=quantization,
                    **options,
                )
            return diffusers.FluxPipeline.from_pretrained(
                str(folder), use_safetensors=True, **options
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelUnavailable(
                f"{folder} can't be loaded: {str(error)[:500]}", "model"
            ) from None

    def _place(self) -> None:
        """Moves the weights, or arranges that they move when needed."""
        placement, pipe = self.placement, self._pipe
        pipe.vae.enable_slicing()
        if placement.tiles_vae:
            pipe.vae.enable_tiling()
        if placement.offload == "none":
            pipe.to(placement.device)
        elif placement.offload == "model":
            pipe.enable_model_cpu_offload(device=placement.device)
        else:
            # Not sequential offload, which fails with GGUF weights.
            pipe.enable_group_offload(
                onload_device=self._torch.device(placement.device),
                offload_type="leaf_level",
                use_stream=placement.device == "cuda",
            )

    def prompt_tokens(self, prompt: str) -> tuple[int, int]:
        """How many tokens CLIP and T5 make of it, special ones included."""
        clip, t5 = self._pipe.tokenizer, self._pipe.tokenizer_2
        return len(clip(prompt)["input_ids"]), len(t5(prompt)["input_ids"])

    @property
    def prompt_limits(self) -> tuple[int, int]:
        """How many tokens of a prompt CLIP and T5 read."""
        return self._pipe.tokenizer.model_max_length, MAX_PROMPT_TOKENS

    def paint(self, request: ImageRequest, image: int, tell: Callable[[Event], None]) -> Any:
        torch, pipe = self._torch, self._pipe
        previews = preview_steps(request.num_steps, request.num_previews)

        def on_step(_pipe: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            tell(Step(image, step + 1))
            if step in previews:
                picture = self._preview(tensors["latents"], request)
                tell(Preview(image, previews.index(step), picture))
            return tensors

        try:
            with torch.inference_mode():
                embeds, pooled = self._encoded(request.prompt)
                made = pipe(
                    prompt_embeds=embeds,
                    pooled_prompt_embeds=pooled,
                    width=request.width,
                    height=request.height,
                    num_inference_steps=request.num_steps,
                    guidance_scale=request.guidance_scale,
                    max_sequence_length=MAX_PROMPT_TOKENS,
                    # On the CPU: the same numbers on every device.
                    generator=torch.Generator("cpu").manual_seed(request.seeds[image]),
                    callback_on_step_end=on_step,
                    callback_on_step_end_tensor_inputs=["latents"],
                )
            return made.images[0]
        finally:
            # Left out by diffusers where a callback raises: the transformer would stay on the GPU.
            with contextlib.suppress(Exception):
                pipe.maybe_free_model_hooks()

    def _encoded(self, prompt: str) -> tuple[Any, Any]:
        if prompt not in self._prompts:
            embeds, pooled, _ = self._pipe.encode_prompt(
                prompt=prompt, prompt_2=None, max_sequence_length=MAX_PROMPT_TOKENS
            )
            self._prompts[prompt] = embeds, pooled
            if len(self._prompts) > KEPT_PROMPTS:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(prompt)
        return self._prompts[prompt]

    def _preview(self, latents: Any, request: ImageRequest) -> Any:
        """A small picture of latents [1, tokens, channels] on their way."""
        pipe = self._pipe
        scale = pipe.vae_scale_factor
        spread = pipe._unpack_latents(latents, request.height, request.width, scale)
        small = self._torch.nn.functional.interpolate(
            spread.float(), scale_factor=1 / PREVIEW_SCALE, mode="area"
        )
        config = pipe.vae.config
        small = (small / config.scaling_factor + config.shift_factor).to(pipe.vae.dtype)
        decoded = pipe.vae.decode(small.to(pipe.vae.device), return_dict=False)[0]
        return pipe.image_processor.postprocess(decoded, output_type="pil")[0]

    def close(self) -> None:
        self._prompts.clear()
        del self._pipe
        if self.placement.device == "cuda":
            self._torch.cuda.empty_cache()


def preview_steps(num_steps: int, num_previews: int) -> list[int]:
    """After which steps previews are shown: evenly, and not after the last."""
    wanted = min(num_previews, num_steps - 1)
    return [round((at + 1) * num_steps / (wanted + 1)) - 1 for at in range(wanted)]


def free_memory(torch: Any) -> dict[str, int]:
    """Free bytes of the devices that torch can use, the best first."""
    found: dict[str, int] = {}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.mem_get_info()[0]
    if torch.backends.mps.is_available():
        found["mps"] = torch.mps.recommended_max_memory()
    return {**found, "cpu": 0}
