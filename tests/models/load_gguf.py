"""Run as a program: loads each GGUF named on stdin in llama.cpp and uses it a little.

Prints one line per file: `loaded`, or `refused` if llama.cpp returns an error. A crash ends the
process before its line, which the test that started it checks.
"""

import ctypes
import sys

import llama_cpp

TEXT = "The thing\n in Ünïcode \U0001f600 \x01 <s> \t 漢字 012 </s>".encode()


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]  # llama_cpp has no annotations
def silent(_level: int, _text: bytes, _data: object) -> None:
    """At module level: C keeps no reference, and a collected callback is a segfault."""


def use(path: str) -> str:
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(path.encode(), params)
    if not model:
        return "refused"
    try:
        return _decode(model)
    finally:
        llama_cpp.llama_model_free(model)


def _decode(model: object) -> str:
    vocab = llama_cpp.llama_model_get_vocab(model)
    room = (llama_cpp.llama_token * 512)()
    count = llama_cpp.llama_tokenize(vocab, TEXT, len(TEXT), room, len(room), True, True)
    raw = (llama_cpp.llama_token * 512)()
    llama_cpp.llama_tokenize(vocab, bytes(range(128)), 128, raw, len(raw), False, False)
    piece = (ctypes.c_char * 256)()
    for token in range(llama_cpp.llama_vocab_n_tokens(vocab)):
        llama_cpp.llama_token_to_piece(vocab, token, piece, len(piece), 0, True)
        llama_cpp.llama_vocab_get_attr(vocab, token)
        llama_cpp.llama_vocab_is_eog(vocab, token)
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = 128, 64, 64, 2
    params.n_threads = params.n_threads_batch = 1
    params.kv_unified = True
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        return "refused"
    try:
        tokens = (llama_cpp.llama_token * 48)(*room[: min(max(count, 1), 48)])
        done = llama_cpp.llama_decode(
            context, llama_cpp.llama_batch_get_one(tokens, min(count, 48))
        )
        sampler = llama_cpp.llama_sampler_init_greedy()
        for _ in range(3):
            if done != 0:
                break
            one = (llama_cpp.llama_token * 1)(llama_cpp.llama_sampler_sample(sampler, context, -1))
            done = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(one, 1))
        llama_cpp.llama_sampler_free(sampler)
        return "loaded" if done == 0 else "refused"
    finally:
        llama_cpp.llama_free(context)


if __name__ == "__main__":
    llama_cpp.llama_log_set(silent, None)
    for line in sys.stdin:
        print(use(line.strip()), flush=True)
