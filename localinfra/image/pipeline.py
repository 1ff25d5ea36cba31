"""FLUX through diffusers, which only this module imports. A folder → a painter.

Works around faults of this diffusers version: see the comments.
"""

import contextlib
import copy
import json
import logging
import math
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from localinfra import garbage
from localinfra.errors import ModelUnavailable
from localinfra.footprint import CPU, Footprint
from localinfra.image.placement import decide, free_memory, part_elements
from localinfra.image.request import Event, ImageRequest, ImageStep, Preview
from localinfra.machine import available_memory
from localinfra.models.entries import ImageModelEntry
from localinfra.shares import Kept
from localinfra.torch_loads import one_at_a_time

logger = logging.getLogger(__name__)

PIPELINES = ("FluxPipeline",)
MAX_PROMPT_TOKENS = 256  # what T5 reads for Schnell; CLIP reads 77
KEPT_PROMPTS = 8  # encodings cached: the same prompt with another seed skips T5
PREVIEW_SCALE = 4  # previews have a quarter of the side, so a sixteenth of the work
OFFLOADED_IN_TURN = "text_encoder->text_encoder_2->transformer"
ATTENTION = {"cudnn": "_native_cudnn"}  # models.toml's name → diffusers', if different


def check_folder(folder: Path) -> None:
    """Raises ModelUnavailable if it is not a supported pipeline, or a pickle would be read."""
    index = folder / "model_index.json"
    try:
        name = json.loads(index.read_text())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelUnavailable(
            f"{folder} is not a diffusers pipeline: it has no readable model_index.json.",
            "model",
        ) from None
    if name not in PIPELINES:
        raise ModelUnavailable(
            f"{folder} is a {name}; only {' and '.join(PIPELINES)} can be served.", "model"
        )
    for weights in folder.glob("*/*.bin"):
        if not list(weights.parent.glob("*.safetensors")):
            raise ModelUnavailable(
                f"{weights} is a Python pickle, which can run code; only safetensors are read.",
                "model",
            )


class FluxPainter:
    """Owns the pipeline. One thread at a time. Raises ModelUnavailable, saying what to do."""

    def __init__(self, folder: Path, entry: ImageModelEntry, transformer: Path | None):
        check_folder(folder)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        import diffusers
        import torch
        from transformers.utils import logging as transformers_logging

        # Both log users' prompts when they truncate them.
        transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        diffusers.utils.logging.set_verbosity_error()
        diffusers.utils.logging.disable_progress_bar()
        self._torch = torch
        free = free_memory(torch, available_memory())
        self.placement = decide(entry, transformer, part_elements(folder), free)
        with one_at_a_time:
            self._pipe = self._load(diffusers, folder, transformer)
        self._place()
        modules = [part for part in self._pipe.components.values() if hasattr(part, "parameters")]
        tensors = [tensor for module in modules for tensor in module.parameters()]
        self._weights_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self._from_picture, self._from_mask = picture_pipelines(diffusers, self._pipe)
        for pipe in (self._pipe, self._from_picture, self._from_mask):
            pipe.set_progress_bar_config(disable=True)
        self._prompts: Kept[str, tuple[Any, Any]] = Kept(KEPT_PROMPTS)
        # Tokenizers hold truncation and padding as state, so counting uses its own copies, one
        # thread at a time.
        self._counters = copy.deepcopy((self._pipe.tokenizer, self._pipe.tokenizer_2))
        self._counting = threading.Lock()

    def _load(self, diffusers: Any, folder: Path, transformer: Path | None) -> Any:
        dtype = getattr(self._torch, self.placement.dtype)
        options: dict[str, Any] = {"dtype": dtype, "local_files_only": True}
        try:
            if transformer:
                quantization = None
                if transformer.suffix == ".gguf":
                    quantization = diffusers.GGUFQuantizationConfig(compute_dtype=dtype)
                # Without `config`, diffusers would ask the hub which model this is.
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
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            raise ModelUnavailable(
                f"{folder} can't be loaded: {str(error)[:500]}", "model"
            ) from None

    def _place(self) -> None:
        """Moves the weights as the placement says, or sets up moving them when needed."""
        torch, placement, pipe = self._torch, self.placement, self._pipe
        if placement.quantize == "float8":
            compute_dtype = getattr(torch, placement.dtype)
            pipe.transformer.enable_layerwise_casting(torch.float8_e4m3fn, compute_dtype)
        if placement.vae_slicing:
            pipe.vae.enable_slicing()
        if placement.vae_tiling:
            pipe.vae.enable_tiling()
        if placement.offload == "none":
            pipe.to(placement.device)
        elif placement.offload == "model":
            # The small VAE stays, or each preview would move both it and the transformer.
            pipe.model_cpu_offload_seq = OFFLOADED_IN_TURN
            pipe._exclude_from_cpu_offload = ["vae"]
            pipe.enable_model_cpu_offload(device=placement.device)
        else:
            # Sequential offload fails with GGUF weights.
            pipe.enable_group_offload(
                onload_device=torch.device(placement.device),
                offload_device=torch.device("cpu"),
                offload_type="leaf_level",
                use_stream=placement.device == "cuda",
            )
        if placement.attention != "auto":
            set_attention(pipe.transformer, placement.attention)
        if placement.compile:
            # Casting from float8 between layers breaks the graph.
            pipe.transformer.compile_repeated_blocks(fullgraph=placement.quantize == "none")

    def prompt_tokens(self, prompt: str) -> tuple[int, int]:
        """The prompt's length in CLIP and in T5 tokens, special ones included."""
        with self._counting:
            clip, t5 = (len(count(prompt)["input_ids"]) for count in self._counters)
        return clip, t5

    @property
    def prompt_limits(self) -> tuple[int, int]:
        """How many tokens of a prompt CLIP and T5 read."""
        return self._counters[0].model_max_length, MAX_PROMPT_TOKENS

    def images_at_once(self, request: ImageRequest) -> int:
        if request.original is not None:  # those pipelines start from one picture
            return 1
        is_cuda = self.placement.device == "cuda"
        free_bytes = self._torch.cuda.mem_get_info()[0] if is_cuda else 0
        return self.placement.images_at_once(request.width, request.height, free_bytes)

    def patience(self, request: ImageRequest, num_images: int) -> int:
        """Grows with megapixels: on a CPU, one of a large model's may take a quarter of an hour."""
        megapixels = math.ceil(num_images * request.width * request.height / 2**20)
        return megapixels * (6 if self.placement.device == "cpu" else 1)

    def paint(
        self, request: ImageRequest, images: Sequence[int], emit: Callable[[Event], None]
    ) -> list[Any]:
        torch = self._torch
        previews = preview_steps(request.num_steps_taken, request.num_previews)

        def on_step(_pipe: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            for at, image in enumerate(images):
                emit(ImageStep(image, step + 1))
                if step in previews:
                    picture = self._preview(tensors["latents"][at : at + 1], request)
                    emit(Preview(image, previews.index(step), picture))
            return tensors

        vae = self._pipe.vae
        is_tiled = self.placement.tiles(request.width, request.height)
        (vae.enable_tiling if is_tiled else vae.disable_tiling)()
        try:
            with torch.inference_mode():
                embeds, pooled = self._encode(request)
                pipe, options = self._pipeline(request)
                made = pipe(
                    prompt_embeds=embeds,
                    pooled_prompt_embeds=pooled,
                    num_images_per_prompt=len(images),
                    width=request.width,
                    height=request.height,
                    num_inference_steps=request.num_steps,
                    guidance_scale=request.guidance_scale,
                    max_sequence_length=MAX_PROMPT_TOKENS,
                    # One per image, so that none depends on the others; on the CPU, so that all
                    # devices get the same numbers.
                    generator=[
                        torch.Generator("cpu").manual_seed(request.seeds[image]) for image in images
                    ],
                    callback_on_step_end=on_step,
                    callback_on_step_end_tensor_inputs=["latents"],
                    **options,
                )
            return [self._restore_unmasked(picture, request) for picture in made.images]
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            raise ModelUnavailable(
                f"There is too little free memory now for an image of {request.width} x "
                f"{request.height}: request a smaller one, or try again later.",
                "size",
            ) from None
        finally:
            # diffusers skips this if a callback raises, which leaves the transformer on the GPU.
            with contextlib.suppress(Exception):
                self._pipe.maybe_free_model_hooks()

    def _pipeline(self, request: ImageRequest) -> tuple[Any, dict[str, Any]]:
        """The pipeline that starts from noise, a picture or a masked one, with its arguments."""
        original = request.original
        if original is None:
            return self._pipe, {}
        options = {"image": original.picture, "strength": original.strength}
        if original.mask is None:
            return self._from_picture, options
        return self._from_mask, {**options, "mask_image": original.mask}

    def _restore_unmasked(self, picture: Any, request: ImageRequest) -> Any:
        """Puts the original's pixels back where the mask changes nothing: the VAE degraded them."""
        original = request.original
        if original is None or original.mask is None:
            return picture
        kept = original.picture.copy()
        kept.paste(picture, mask=original.mask)
        return kept

    def _encode(self, request: ImageRequest) -> tuple[Any, Any]:
        """What is kept is each client's own: else the time would tell that another had it too."""
        client, prompt = request.client, request.prompt
        if (known := self._prompts.get(client, prompt)) is not None:
            return known
        embeds, pooled, _ = self._pipe.encode_prompt(
            prompt=prompt, prompt_2=None, max_sequence_length=MAX_PROMPT_TOKENS
        )
        self._prompts.put(client, prompt, (embeds, pooled), 1)
        return embeds, pooled

    def _preview(self, latents: Any, request: ImageRequest) -> Any:
        """A small picture of unfinished latents [1, tokens, channels]."""
        pipe = self._pipe
        scale = pipe.vae_scale_factor
        spread = pipe._unpack_latents(latents, request.height, request.width, scale)
        small = self._torch.nn.functional.interpolate(
            spread.float(), scale_factor=1 / PREVIEW_SCALE, mode="area"
        )
        config = pipe.vae.config
        small = (small / config.scaling_factor + config.shift_factor).to(pipe.vae.dtype)
        decoded = pipe.vae.decode(small.to(pipe._execution_device), return_dict=False)[0]
        return pipe.image_processor.postprocess(decoded, output_type="pil")[0]

    @property
    def parked(self) -> Footprint | None:
        """What the weights take in main memory; None if they are not all on a GPU of their own."""
        if self.placement.device != "cuda" or self.placement.offload != "none":
            return None
        return Footprint({CPU: self._weights_bytes})

    def park(self) -> None:
        """Moves the weights to main memory until `wake`."""
        self._prompts.clear()
        self._pipe.to("cpu")
        garbage.collect()
        self._torch.cuda.empty_cache()

    def wake(self) -> None:
        self._pipe.to(self.placement.device)

    def close(self) -> None:
        self._prompts.clear()
        del self._pipe, self._from_picture, self._from_mask
        if self.placement.device == "cuda":
            garbage.collect()  # before empty_cache, which only returns unreferenced memory
            self._torch.cuda.empty_cache()


def picture_pipelines(diffusers: Any, pipe: Any) -> tuple[Any, Any]:
    """Pipelines over the same weights that start from a picture, and from one with a mask. Not made
    by `from_pipe`, which casts the weights to float32."""
    parts = pipe.components
    found = diffusers.FluxImg2ImgPipeline(**parts), diffusers.FluxInpaintPipeline(**parts)
    for other in found:  # their execution device depends on these exclusions
        other._exclude_from_cpu_offload = pipe._exclude_from_cpu_offload
    return found


def set_attention(transformer: Any, attention: str) -> None:
    """Sets it for this transformer only: diffusers also makes it the process's default, which is
    undone here. Raises ModelUnavailable if it is not available."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    Registry: Any = _AttentionBackendRegistry
    before, _ = Registry.get_active_backend()
    try:
        transformer.set_attention_backend(ATTENTION.get(attention, attention))
    except (ValueError, RuntimeError, ImportError) as error:
        raise ModelUnavailable(
            f"attention = {attention!r} is not available here: {str(error)[:300]}", "model"
        ) from None
    finally:
        Registry.set_active_backend(before)


def preview_steps(num_steps: int, num_previews: int) -> list[int]:
    """The steps after which previews are sent: evenly spaced, never the last."""
    wanted = min(num_previews, num_steps - 1)
    return [round((at + 1) * num_steps / (wanted + 1)) - 1 for at in range(wanted)]
