"""A projector (mmproj file) in memory: pictures and sounds → rows that its text model reads, by
libmtmd.

The file must have passed `models/gguf/projector.py` and a trial in a process of its own. Decodes
nothing: what the rows mean for a context is in `engine/pictures.py`.
"""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from localinfra.footprint import Footprint
from localinfra.llama import log
from localinfra.llama.library import llama_cpp, mtmd
from localinfra.llama.load_log import footprint_of
from localinfra.llama.model import LoadFailed, Model
from localinfra.llama.openmp import release_threads, with_threads
from localinfra.picture_parts import EncodingFailed, PartSize, PicturePart
from localinfra.pictures import Pixels
from localinfra.sounds.samples import Samples

TEXT, IMAGE, AUDIO = 0, 1, 2  # enum mtmd_input_chunk_type
# mtmd-audio.cpp asserts on sounds shorter than two frames, and refuses some whose last piece is
# (of 30 or 60 seconds). Silence to the next tenth of a second makes none of either.
LEAST_PARTS, PARTS_PER_SECOND = 5, 10


class ProjectorSettings(msgspec.Struct, frozen=True):
    threads: int
    spared: int = 0  # of them, while other work runs
    use_gpu: bool = False
    max_tokens: int | None = None  # of one picture, where the projector has no fixed number
    # What follows the tiles of a picture is all of it, between words of its own or not; None: it
    # has no tiles, or they are not understood.
    has_own_words: bool | None = None
    longest_sound_s: float = 0.0  # 0: it is not used to hear


class Projector:
    """Owns the weights and keeps the text model alive. One thread at a time; `sizes` from any.

    Raises LoadFailed.
    """

    def __init__(self, path: Path, model: Model, settings: ProjectorSettings):
        self._pointer: Any = None
        self._model = model
        self._settings = settings
        try:
            self._library = mtmd()
        except (OSError, RuntimeError) as error:
            raise LoadFailed(f"this build of llama.cpp can't see: {error}") from None
        self._library.mtmd_log_set(log.callback, ctypes.c_void_p(0))
        params = self._library.mtmd_context_params_default()
        params.use_gpu = settings.use_gpu
        params.print_timings = False
        params.n_threads = settings.threads
        if settings.max_tokens is not None:
            params.image_max_tokens = settings.max_tokens
            params.image_min_tokens = min(settings.max_tokens, 8)
        log.recent_errors()
        with log.collected() as lines:
            self._pointer = self._library.mtmd_init_from_file(
                os.fsencode(path), model.pointer, params
            )
        if not self._pointer:
            raise LoadFailed(f"{path}: {log.recent_errors() or 'llama.cpp could not load it'}")
        self.footprint: Footprint = footprint_of(lines)
        self.width: int = llama_cpp.llama_model_n_embd_inp(model.pointer)
        self.sees = bool(self._library.mtmd_support_vision(self._pointer))
        # samples per second of sounds; 0 if it doesn't hear
        rate: int = self._library.mtmd_get_audio_sample_rate(self._pointer)
        self.sample_rate = max(0, rate) if settings.longest_sound_s else 0
        self.longest_sound_s = settings.longest_sound_s
        # Whether rows see only those before them.
        self.is_causal = not self._library.mtmd_decode_use_non_causal(self._pointer, None)

    def sizes(self, content: Pixels | Samples) -> list[PartSize]:
        """What a picture or a sound becomes, by its size alone. Of a sound this takes a millisecond
        for each of its seconds. Raises EncodingFailed."""
        lib = self._library
        with ExitStack() as held:
            chunks = self._chunks(held, content, is_read=False)
            return [
                PartSize(
                    lib.mtmd_input_chunk_get_n_tokens(chunk),
                    lib.mtmd_input_chunk_get_type(chunk) != TEXT,
                )
                for chunk in chunks
            ]

    def read(
        self,
        content: Pixels | Samples,
        check: Callable[[], None],
        has_company: Callable[[], bool] = lambda: False,
    ) -> tuple[PicturePart, ...]:
        """Encodes a picture or a sound, which takes from milliseconds to minutes. `check` is called
        before each part, and may wait, or raise to end it; `has_company` says whether other work
        runs, which some threads are left to. Raises EncodingFailed."""
        with ExitStack() as held:
            chunks = self._chunks(held, content, is_read=True)
            try:
                return tuple(self._parts(chunks, check, has_company))
            finally:
                release_threads()  # those of a context could not spin while these sleep

    def close(self) -> None:
        if self._pointer:
            self._library.mtmd_free(self._pointer)
            self._pointer = None

    def _chunks(self, held: ExitStack, content: Pixels | Samples, *, is_read: bool) -> list[Any]:
        """A picture or a sound between no texts → pointers that live as long as `held`."""
        lib = self._library
        bitmap = _bitmap(lib, content, is_read=is_read)
        held.callback(lib.mtmd_bitmap_free, bitmap)
        chunks = lib.mtmd_input_chunks_init()
        held.callback(lib.mtmd_input_chunks_free, chunks)
        part = lib.mtmd_input_part()
        part.bitmap = bitmap
        parts = (ctypes.POINTER(lib.mtmd_input_part) * 1)(ctypes.pointer(part))
        if lib.mtmd_tokenize_from_parts(self._pointer, chunks, parts, 1, False):
            raise EncodingFailed(log.recent_errors() or "llama.cpp can't prepare it")
        count = lib.mtmd_input_chunks_size(chunks)
        found = [lib.mtmd_input_chunks_get(chunks, at) for at in range(count)]
        # It looks some of its words up, and takes what it has not found for a token, -1.
        if any(token < 0 for chunk in found for token in self._tokens(chunk)):
            raise EncodingFailed(
                "the model has no words for what its projector writes around parts of a picture: "
                "they don't belong together"
            )
        is_coarse = isinstance(content, Pixels) and content.is_coarse
        return self._whole(found) if is_coarse else found

    def _whole(self, chunks: list[Any]) -> list[Any]:
        """Of a picture in tiles, what shows all of it, with the words around."""
        kinds = [self._library.mtmd_input_chunk_get_type(chunk) != TEXT for chunk in chunks]
        if self._settings.has_own_words is None or kinds.count(True) < 2:
            return chunks
        last = len(kinds) - 1 - kinds[::-1].index(True)
        if self._settings.has_own_words:
            return chunks[last - 1 :]
        return [*chunks[: kinds.index(True)], *chunks[last:]]

    def _tokens(self, chunk: Any) -> list[int]:
        """Those of a text; none of rows."""
        length = ctypes.c_size_t()
        tokens = self._library.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(length))
        return list(tokens[: length.value])

    def _parts(
        self, chunks: list[Any], check: Callable[[], None], has_company: Callable[[], bool]
    ) -> Iterator[PicturePart]:
        lib = self._library
        for chunk in chunks:
            count = lib.mtmd_input_chunk_get_n_tokens(chunk)
            if lib.mtmd_input_chunk_get_type(chunk) == TEXT:
                yield PicturePart(self._tokens(chunk))
                continue
            check()
            threads = self._settings.threads - self._settings.spared * has_company()
            # Each alone: libmtmd's batches are slower on CPUs, and Gemma 4's rows depend on what
            # else is in them (docs/benchmarks.md).
            if with_threads(threads, partial(lib.mtmd_encode_chunk, self._pointer, chunk)):
                raise EncodingFailed(log.recent_errors() or "llama.cpp can't encode it")
            found = np.ctypeslib.as_array(
                lib.mtmd_get_output_embd(self._pointer), (count, self.width)
            )
            yield PicturePart(rows=found.astype(np.float32, copy=True), grid=self._grid(chunk))

    def _grid(self, chunk: Any) -> tuple[int, int] | None:
        lib = self._library
        is_sound = lib.mtmd_input_chunk_get_type(chunk) == AUDIO
        if is_sound or not lib.mtmd_decode_use_mrope(self._pointer):
            return None
        image = lib.mtmd_input_chunk_get_tokens_image(chunk)
        last = lib.mtmd_input_chunk_get_n_tokens(chunk) - 1
        if lib.mtmd_image_tokens_get_decoder_pos(image, 0, last).t:  # a tile, counted like text
            return None
        return lib.mtmd_image_tokens_get_ny(image), lib.mtmd_image_tokens_get_nx(image)


def _bitmap(lib: Any, content: Pixels | Samples, *, is_read: bool) -> Any:
    """The library's copy; without data if it is not to be read."""
    if isinstance(content, Pixels):
        size = len(content.data)
        data = (ctypes.c_uint8 * size).from_buffer_copy(content.data) if is_read else None
        return lib.mtmd_bitmap_init(content.width, content.height, data)
    samples = padded(content)
    pointer = samples.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) if is_read else None
    return lib.mtmd_bitmap_init_from_audio(len(samples), pointer)


def padded(sound: Samples) -> NDArray[np.float32]:
    """Its samples in whole tenths of a second, with silence at the end."""
    part = sound.rate // PARTS_PER_SECOND
    count = max(LEAST_PARTS, -(-len(sound.data) // part))
    return np.pad(sound.data, (0, count * part - len(sound.data)))
