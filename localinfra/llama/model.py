"""A GGUF file in memory: its weights, vocabulary and template text.

The file must have passed `models/gguf/reader.py`: some damaged files crash llama.cpp.
"""

import ctypes
import functools
import itertools
import os
import threading
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from localinfra.errors import InvalidRequest
from localinfra.footprint import Footprint, total
from localinfra.llama import log
from localinfra.llama.build_info import has_gpu
from localinfra.llama.library import llama_cpp
from localinfra.llama.load_log import footprint_of
from localinfra.llama.memories import OTHER_HYBRIDS, OTHER_WINDOWS
from localinfra.llama.settings import WINDOW

if TYPE_CHECKING:
    from localinfra.llama.windows import Windows

# enum llama_rope_type: M-RoPE, and its interleaved form
GRID_ROPE_TYPES = (llama_cpp.LLAMA_ROPE_TYPE_MROPE, llama_cpp.LLAMA_ROPE_TYPE_IMROPE)

# llguidance panics at longer tokens. None is known; under a grammar they are never chosen.
MAX_GRAMMAR_TOKEN_BYTES = 1024

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


class Model:
    """Weights and vocabulary, freed with the last reference. Raises LoadFailed.

    The vocabulary's methods may be called from any thread.
    """

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
        self._vocab = llama_cpp.llama_model_get_vocab(self.pointer)
        self.num_vocab: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._buffer = ctypes.create_string_buffer(256)
        self._pieces: dict[int, bytes] = {}
        self._preparing = threading.Lock()
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
    def has_plain_cache(self) -> bool:
        """Whether all layers have full attention, so that any part of a sequence can be copied."""
        return not (self.has_state or llama_cpp.llama_model_n_swa(self.pointer) > 0)

    @functools.cached_property
    def can_save_states(self) -> bool:
        """Whether it has a recurrent state that can be moved by itself, and else full attention."""
        is_known = self.is_hybrid_with_one_cache and self.architecture not in OTHER_HYBRIDS
        return is_known or not self.has_attention

    @functools.cached_property
    def has_state(self) -> bool:
        """Whether some layers keep a recurrent state: all of them, or beside ones with attention
        (hybrid)."""
        return bool(
            llama_cpp.llama_model_is_recurrent(self.pointer)
            or llama_cpp.llama_model_is_hybrid(self.pointer)
        )

    @functools.cached_property
    def has_attention(self) -> bool:
        return not llama_cpp.llama_model_is_recurrent(self.pointer)

    @functools.cached_property
    def is_hybrid_with_one_cache(self) -> bool:
        """Whether all layers have either a recurrent state or full attention."""
        is_hybrid = bool(llama_cpp.llama_model_is_hybrid(self.pointer))
        return is_hybrid and llama_cpp.llama_model_n_swa(self.pointer) == 0

    @functools.cached_property
    def sliding_window(self) -> int:
        """Tokens that some layers look back at, in a separate cache. 0 if none do, or if the window
        is not understood."""
        is_hybrid = bool(llama_cpp.llama_model_is_hybrid(self.pointer))
        is_other = is_hybrid or self.architecture in OTHER_WINDOWS
        return 0 if is_other else int(llama_cpp.llama_model_n_swa(self.pointer))

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
    def bos_text(self) -> str:
        return self.token_text(llama_cpp.llama_vocab_bos(self._vocab))

    @functools.cached_property
    def eos_text(self) -> str:
        return self.token_text(llama_cpp.llama_vocab_eos(self._vocab))

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

    @functools.cached_property
    def adds_bos(self) -> bool:
        return bool(llama_cpp.llama_vocab_get_add_bos(self._vocab))

    @functools.cached_property
    def special_tokens(self) -> Mapping[str, int]:
        """Text → id of the tokens that the tokenizer matches with `parse_special`."""
        special = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
        attributes = llama_cpp.llama_vocab_get_attr
        ids = (token for token in range(self.num_vocab) if attributes(self._vocab, token) & special)
        return {text: token for token in ids if (text := self.token_text(token))}

    def grammar_tokenizer(self) -> Any:
        """llguidance's `LLTokenizer` for the vocabulary. Takes 0.4 s for 49k tokens; must not be
        used after the model is freed."""
        from llguidance import LLTokenizer

        controls = set(self.grammar_tokens.values())
        # 0xff never starts UTF-8 text; llguidance reads it as a special token.
        pieces = [
            b"\xff" + self.token_text(token).encode() if token in controls else self._piece(token)
            for token in range(self.num_vocab)
        ]
        for token, piece in enumerate(pieces):
            if len(piece) > MAX_GRAMMAR_TOKEN_BYTES:
                pieces[token] = b"\xfftoo long: %d" % token
        ends = [token for token in range(self.num_vocab) if self.is_end(token)]
        eos = llama_cpp.llama_vocab_eos(self._vocab)
        return LLTokenizer.from_llamacpp(
            tokens=pieces,
            vocab_ptr=self._vocab,
            tokenize_fptr=ctypes.cast(llama_cpp._lib.llama_tokenize, ctypes.c_void_p).value,
            eos_token=sorted(ends, key=lambda token: token != eos) or eos,  # the main one first
        )

    @functools.cached_property
    def grammar_tokens(self) -> Mapping[str, int]:
        """Text → id of the tokens that a grammar must name, as they are not text to it."""
        control = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
        return {
            text: token
            for text, token in self.special_tokens.items()
            if llama_cpp.llama_vocab_get_attr(self._vocab, token) & control
            or (text.startswith("<") and text.endswith(">"))
        }

    @functools.cached_property
    def tokens_around(self) -> tuple[list[int], list[int]]:
        """The tokens that the model puts before and after a whole text, such as [CLS] and [SEP]."""
        whole, text = self._tokenize(b"a", True, False), self._tokenize(b"a", False, False)
        # Some tokenizers always append an end token.
        text = [token for token in text if token not in self.special_tokens.values()] or text
        starts = range(len(whole) - len(text) + 1)
        at = next((i for i in starts if whole[i : i + len(text)] == text), 0)
        return whole[:at], whole[at + len(text) :]

    @functools.cached_property
    def longest_token(self) -> int:
        """Bytes of the longest token, so that a text of n tokens has at most n times as many."""
        text = llama_cpp.llama_vocab_get_text
        return max(len(text(self._vocab, token)) for token in range(self.num_vocab))

    @functools.cached_property
    def infill_tokens(self) -> tuple[int, int, int] | None:
        """The ids before prefix, suffix and middle; None if the model has none."""
        ids = (
            llama_cpp.llama_vocab_fim_pre(self._vocab),
            llama_cpp.llama_vocab_fim_suf(self._vocab),
            llama_cpp.llama_vocab_fim_mid(self._vocab),
        )
        return ids if min(ids) >= 0 else None

    def token_text(self, token: int) -> str:
        """The vocabulary's spelling of a token, e.g. `<|im_end|>`; empty for -1."""
        if not 0 <= token < self.num_vocab:
            return ""
        text: bytes = llama_cpp.llama_vocab_get_text(self._vocab, token)
        return text.decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))

    def tokenize(self, text: str, *, parse_special: bool, add_bos: bool) -> list[int]:
        """Text → token ids. `parse_special` matches `special_tokens` in the text.

        `add_bos` adds a BOS token if the model wants one and the text does not start with it.
        Raises InvalidRequest if the text can't be encoded as UTF-8 (a lone surrogate).
        """
        parts = self.tokens(text, parse_special=parse_special, add_bos=add_bos)
        return [*itertools.chain.from_iterable(parts)]

    def tokens(self, text: str, *, parse_special: bool, add_bos: bool) -> Iterator[list[int]]:
        """Yields the same ids in parts of a few milliseconds each."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"The text has a lone surrogate at character {error.start}; send valid Unicode."
            ) from None
        has_bos = parse_special and bool(self.bos_text) and text.startswith(self.bos_text)
        add = add_bos and self.adds_bos and not has_bos
        self.prepare_for(len(text))
        if len(text) <= WINDOW or not self._is_cut:
            yield self._tokenize(text.encode(), add, parse_special)
            return
        before = ""
        for part in self._windows.of(text, parse_special=parse_special):
            if not before or (parse_special and self._windows.ends_in_special(before)):
                yield self._tokenize(part.encode(), add and not before, parse_special)
            else:
                opened = self._tokenize((self._opening + part).encode(), False, parse_special)
                yield opened[len(self._opening_ids) :]
            before = part

    def prepare_for(self, num_characters: int) -> None:
        """Scans the vocabulary before the first long text, which may take a second."""
        if num_characters > WINDOW and self._is_cut:
            with self._preparing:
                assert self._windows

    @functools.cached_property
    def _windows(self) -> "Windows":
        from localinfra.llama.windows import Windows

        pieces = (self._piece(token) for token in range(self.num_vocab))
        special = self.special_tokens
        return Windows(itertools.chain(pieces, map(str.encode, special)), special)

    @functools.cached_property
    def _is_cut(self) -> bool:
        """Whether long texts must be cut; WordPiece, Unigram and so on handle them well."""
        kinds = llama_cpp.LLAMA_VOCAB_TYPE_SPM, llama_cpp.LLAMA_VOCAB_TYPE_BPE
        return llama_cpp.llama_vocab_type(self._vocab) in kinds

    @functools.cached_property
    def _opening(self) -> str:
        """Put before a part that continues a text, since SentencePiece adds a blank at the start.
        No token joins this character with another."""
        is_spm = llama_cpp.llama_vocab_type(self._vocab) == llama_cpp.LLAMA_VOCAB_TYPE_SPM
        return "\x01" if is_spm else ""

    @functools.cached_property
    def _opening_ids(self) -> list[int]:
        return self._tokenize(self._opening.encode(), False, False) if self._opening else []

    def _tokenize(self, data: bytes, add_special: bool, parse_special: bool) -> list[int]:
        capacity = len(data) + 2
        ids = (llama_cpp.llama_token * capacity)()
        count = llama_cpp.llama_tokenize(
            self._vocab, data, len(data), ids, capacity, add_special, parse_special
        )
        assert count >= 0, "a token has at least one byte"
        return list(ids[:count])

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token adds to the text; empty for control tokens."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._piece(token)
        return piece

    def _piece(self, token: int) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length: int = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
            if length >= 0:
                return buffer.raw[:length]
            size = -length
