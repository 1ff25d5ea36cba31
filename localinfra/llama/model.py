"""A GGUF file in memory: its weights, vocabulary and template text.

The file must have passed `models/gguf/reader.py`: some damaged files crash llama.cpp.
"""

import ctypes
import functools
import os
import weakref
from pathlib import Path
from typing import Any

import msgspec

from localinfra.footprint import Footprint, total
from localinfra.llama import log
from localinfra.llama.build_info import has_gpu
from localinfra.llama.library import llama_cpp
from localinfra.llama.load_log import footprint_of
from localinfra.llama.memories import CHUNKED, ROUNDED_OTHERWISE, has_unused_window, is_saved_whole
from localinfra.llama.vocabulary import ModelVocabulary

# enum llama_rope_type: M-RoPE, and its interleaved form
GRID_ROPE_TYPES = (llama_cpp.LLAMA_ROPE_TYPE_MROPE, llama_cpp.LLAMA_ROPE_TYPE_IMROPE)

SPLIT_MODES = {"none": 0, "layer": 1, "row": 2}  # enum llama_split_mode
LOAD_MODES = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}


class LoadFailed(Exception):
    """llama.cpp could not load the file or create a context; the message quotes llama.cpp."""


class NoContext(LoadFailed):
    """llama.cpp could not create a context, mostly for want of memory."""


class LoraFile(msgspec.Struct, frozen=True):
    path: Path
    scale: float = 1.0


class ModelSettings(msgspec.Struct, frozen=True):
    """Placement of weights. Layers count as in llama.cpp: the output layer is one of them."""

    gpu_layers: int = 0
    split_mode: str = "layer"
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()  # proportion of the model per device
    mmap: bool = True
    mlock: bool = False
    lora: tuple[LoraFile, ...] = ()
    mtp: bool = False  # with the layers for multi-token prediction
    vocabulary_only: bool = False  # no weights: to tokenize, or to try a projector
    rpc_servers: tuple[str, ...] = ()  # other machines, which `peers.ask` has just found


class Model(ModelVocabulary):
    """Weights and vocabulary, freed with the last reference. Raises LoadFailed."""

    def __init__(self, path: Path, settings: ModelSettings):
        log.init_library()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = settings.gpu_layers
        params.split_mode = SPLIT_MODES[settings.split_mode]
        params.main_gpu = settings.main_gpu
        params.load_mtp = settings.mtp
        params.vocab_only = settings.vocabulary_only
        params.load_mode = LOAD_MODES[settings.mmap, settings.mlock]
        if settings.rpc_servers:
            from localinfra.llama import peers

            used = peers.device_pointers(settings.rpc_servers)
            params.devices = ctypes.addressof(used)
        split = (ctypes.c_float * llama_cpp.llama_max_devices())(*settings.tensor_split)
        if settings.tensor_split:
            params.tensor_split = split
        log.recent_errors()
        with log.collected() as lines:
            self.pointer: Any = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        if not self.pointer:
            raise LoadFailed(f"{path}: {log.recent_errors() or 'llama.cpp could not load it'}")
        # Renderings and detokenizers may outlive the engine by a moment: the weights are freed with
        # the last reference to this object, not with the engine.
        self._free = weakref.finalize(self, llama_cpp.llama_model_free, self.pointer)
        self._free.atexit = False
        self.path = path
        self.is_offloaded = bool(settings.gpu_layers and (settings.rpc_servers or has_gpu()))
        num_layers = llama_cpp.llama_model_n_layer(self.pointer)
        is_own = self.is_offloaded and not settings.rpc_servers
        self.has_output_on_device = is_own and settings.gpu_layers > num_layers
        self.size_bytes: int = llama_cpp.llama_model_size(self.pointer)
        super().__init__(llama_cpp.llama_model_get_vocab(self.pointer))
        self._buffer = ctypes.create_string_buffer(256)
        with log.collected() as adapter_lines:
            self.adapters = [(self._load_adapter(file.path), file.scale) for file in settings.lora]
        self.footprint = footprint_of(lines + adapter_lines)

    def _load_adapter(self, path: Path) -> Any:
        adapter = llama_cpp.llama_adapter_lora_init(self.pointer, os.fsencode(path))
        if not adapter:
            reason = log.recent_errors() or "llama.cpp could not load this LoRA file"
            self.close()
            raise LoadFailed(f"{path}: {reason}")
        return adapter

    def new_context(self, params: Any) -> tuple[Any, Footprint]:
        """A pointer to a llama_context, which the caller frees (`llama_init_from_model`), and what
        it takes together with the model. Raises NoContext where it can't be made."""
        log.recent_errors()
        with log.collected() as lines:
            pointer = llama_cpp.llama_init_from_model(self.pointer, params)
        if not pointer:
            raise NoContext(f"{self.path}: {log.recent_errors() or 'no context could be made'}")
        return pointer, total((self.footprint, footprint_of(lines)))

    def close(self) -> None:
        """Frees weights and adapters now; only for the holder of the sole reference."""
        self._free()

    @functools.cached_property
    def has_state(self) -> bool:
        """Whether some layers keep a recurrent state: all of them, or beside ones with attention
        (hybrid)."""
        return not self.has_attention or self._is_hybrid

    @functools.cached_property
    def has_attention(self) -> bool:
        return not llama_cpp.llama_model_is_recurrent(self.pointer)

    @functools.cached_property
    def is_saved_whole(self) -> bool:
        """Whether a sequence is saved and restored with all its cells, and shares none of them."""
        has_window = llama_cpp.llama_model_n_swa(self.pointer) > 0
        return is_saved_whole(self.architecture, is_hybrid=self._is_hybrid, has_window=has_window)

    @functools.cached_property
    def has_known_cells(self) -> bool:
        """Whether it is known which cells llama.cpp uses, and sums depend on their order alone."""
        has_window = llama_cpp.llama_model_n_swa(self.pointer) > 0
        is_other = self.architecture in ROUNDED_OTHERWISE or (self._is_hybrid and has_window)
        return not is_other

    @functools.cached_property
    def sliding_window(self) -> int:
        """Tokens that some layers look back at, in a separate cache. 0 if none do, or if sequences
        are saved whole."""
        num_layers = llama_cpp.llama_model_n_layer(self.pointer)
        if self._is_hybrid or has_unused_window(self.architecture, num_layers):
            return 0
        return int(llama_cpp.llama_model_n_swa(self.pointer))

    @functools.cached_property
    def has_chunks(self) -> bool:
        """Whether these layers look back to the last multiple of `sliding_window`."""
        return self.sliding_window > 0 and self.architecture in CHUNKED

    @functools.cached_property
    def _is_hybrid(self) -> bool:
        return bool(llama_cpp.llama_model_is_hybrid(self.pointer))

    @functools.cached_property
    def has_values(self) -> bool:
        """Whether its cache has values beside keys. With MLA both are made of one latent vector,
        which is kept as a key."""
        return self._metadata(f"{self.architecture}.attention.key_length_mla") in ("", "0")

    @functools.cached_property
    def row_width(self) -> int:
        """The numbers of a picture's row, which is read in the place of a token's embedding."""
        return int(llama_cpp.llama_model_n_embd_inp(self.pointer))

    @functools.cached_property
    def has_grid_positions(self) -> bool:
        """Whether positions have parts for height and width (M-RoPE)."""
        return llama_cpp.llama_model_rope_type(self.pointer) in GRID_ROPE_TYPES

    @functools.cached_property
    def can_generate(self) -> bool:
        """Whether the model predicts a next token, unlike encoders and diffusion models."""
        return bool(
            llama_cpp.llama_model_has_decoder(self.pointer)
            and not llama_cpp.llama_model_has_encoder(self.pointer)
            and not llama_cpp.llama_model_is_diffusion(self.pointer)
        )

    @functools.cached_property
    def description(self) -> str:
        """Architecture, size and quantisation in llama.cpp's words."""
        llama_cpp.llama_model_desc(self.pointer, self._buffer, len(self._buffer))
        return self._buffer.value.decode("utf-8", "replace")

    @functools.cached_property
    def tokenizer_kind(self) -> str:
        """The name in the GGUF file: gpt2, llama, bert and so on."""
        return self._metadata("tokenizer.ggml.model")

    @functools.cached_property
    def architecture(self) -> str:
        return self._metadata("general.architecture")

    def _metadata(self, key: str) -> str:
        """A short metadata value of the GGUF file."""
        buffer = ctypes.create_string_buffer(64)
        llama_cpp.llama_model_meta_val_str(self.pointer, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")
