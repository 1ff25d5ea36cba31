"""Decodes rows of a picture: llama.cpp reads either tokens or rows (`llama_batch.embd`)."""

import ctypes
from typing import Any

import numpy as np

from localinfra.engine.backend import Batch
from localinfra.llama.library import llama_cpp
from localinfra.llama.places import NUM_PARTS, Area, Places, parts_of


def decode_picture(context: Any, tokens: Any, batch: Batch, places: Places | None) -> int:
    """Computes a batch of a picture's rows. Returns the code of `llama_decode`.

    `tokens`: a llama_batch with this one's sequences and wanted rows. `places`: of a model with
    M-RoPE; it learns of the picture.
    """
    assert batch.picture
    picture, start, stop = batch.picture
    positions = batch.positions
    if places is not None:
        if picture.grid:
            first = positions[0] - start
            area = Area(first, picture.num_tokens, picture.num_positions)
            places.add(batch.slots[0], area)
        positions = places.of(batch.slots, positions)
    parts = parts_of(batch.picture, positions, 1 if places is None else NUM_PARTS)
    rows = picture.rows[start:stop]
    if num_others := len(batch) - len(rows):
        rows = np.concatenate((rows, np.zeros((num_others, rows.shape[1]), np.float32)))
    read = llama_cpp.llama_batch()
    read.n_tokens = len(batch)
    read.embd = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    read.pos = parts.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
    read.n_seq_id, read.seq_id, read.logits = tokens.n_seq_id, tokens.seq_id, tokens.logits
    if picture.is_causal:
        return int(llama_cpp.llama_decode(context, read))
    llama_cpp.llama_set_causal_attn(context, False)
    try:
        return int(llama_cpp.llama_decode(context, read))
    finally:
        llama_cpp.llama_set_causal_attn(context, True)
