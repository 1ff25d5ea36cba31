"""How llama.cpp's own helper reads pictures (mtmd-helper.h), to compare ours with: the same that
`llama-server` does."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from localinfra.llama.library import llama_cpp, mtmd
from localinfra.llama.model import Model, ModelSettings

MARK = "<__media__>"


class Read(NamedTuple):
    """What a model says after a prompt, greedily."""

    scores: NDArray[np.float64]  # [num_vocab]: log-probabilities of the first token
    tokens: list[int]
    num_prompt: int  # tokens


class Helper:
    """A model and its projector. `with` frees them."""

    def __init__(self, model: Path, projector: Path, batch_size: int):
        """Steps have up to `batch_size` rows."""
        self._held = ExitStack()
        self._model = Model(model, ModelSettings())
        self._eyes = _eyes(self._held, projector, self._model)
        self._batch_size = batch_size

    def __enter__(self) -> "Helper":
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def read(self, prompt: str, files: list[bytes], max_tokens: int) -> Read:
        """`prompt` has a MARK for each picture."""
        lib, end = mtmd(), ctypes.c_int32(0)
        with ExitStack() as held:
            context = self._context(held)
            chunks = _chunks(held, self._eyes, prompt, files)
            failed = lib.mtmd_helper_eval_chunks(
                self._eyes, context, chunks, 0, 0, self._batch_size, True, ctypes.byref(end)
            )
            assert not failed
            tokens = list(_tokens(context, self._model, end.value, max_tokens))
            count = int(lib.mtmd_helper_get_n_tokens(chunks))
            return Read(tokens[0][1], [token for token, _ in tokens], count)

    def _context(self, held: ExitStack) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 1024, self._batch_size, self._batch_size
        params.n_threads = params.n_threads_batch = 1
        params.kv_unified = True
        context = llama_cpp.llama_init_from_model(self._model.pointer, params)
        assert context
        held.callback(llama_cpp.llama_free, context)
        return context


def _eyes(held: ExitStack, projector: Path, model: Model) -> Any:
    params = mtmd().mtmd_context_params_default()
    params.use_gpu = params.print_timings = params.warmup = False
    params.n_threads = 1
    eyes = mtmd().mtmd_init_from_file(os.fsencode(projector), model.pointer, params)
    assert eyes
    held.callback(mtmd().mtmd_free, eyes)
    return eyes


def _chunks(held: ExitStack, eyes: Any, prompt: str, files: list[bytes]) -> Any:
    lib = mtmd()
    bitmaps = []
    for data in files:
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        bitmap = lib.mtmd_helper_bitmap_init_from_buf(eyes, buffer, len(data), False)
        assert bitmap
        held.callback(lib.mtmd_bitmap_free, bitmap)
        bitmaps.append(bitmap)
    text = lib.mtmd_input_text()
    text.text, text.text_len = prompt.encode(), len(prompt.encode())
    text.add_special = text.parse_special = True
    chunks = lib.mtmd_input_chunks_init()
    held.callback(lib.mtmd_input_chunks_free, chunks)
    pointers = (lib.mtmd_bitmap_p_ctypes * len(bitmaps))(*bitmaps)
    assert not lib.mtmd_tokenize(eyes, chunks, ctypes.byref(text), pointers, len(bitmaps))
    return chunks


def _tokens(
    context: Any, model: Model, end: int, max_tokens: int
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """The likeliest tokens in turn, each with the scores that it was chosen by."""
    for at in range(max_tokens):
        logits = llama_cpp.llama_get_logits_ith(context, -1)
        scores = np.ctypeslib.as_array(logits, (model.num_vocab,)).astype(np.float64)
        scores -= np.logaddexp.reduce(scores)
        token = int(scores.argmax())
        yield token, scores
        if model.is_end(token):
            return
        own = (ctypes.c_int32 * 1)(token)  # kept while it is read
        batch = llama_cpp.llama_batch_get_one(own, 1)
        batch.pos = (ctypes.c_int32 * 1)(end + at)
        assert not llama_cpp.llama_decode(context, batch)
