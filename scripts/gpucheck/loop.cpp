// The bare loop that a server is measured against: decodes STEPS tokens in each of STREAMS sequences
// with llama_decode, takes the largest logit of each row, and prints tokens per second. Each sequence
// begins with DEPTH tokens of its own. They share one cache, or each has its own.
//
//     loop MODEL STREAMS STEPS GPU_LAYERS THREADS [DEPTH [one|each]]

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "llama.h"

const int MOST = 512;  // tokens of a step

bool read_prompt(llama_context * context, llama_batch & batch, int sequence, int depth, int words) {
    for (int start = 0; start < depth; start += MOST) {
        batch.n_tokens = std::min(MOST, depth - start);
        for (int at = 0; at < batch.n_tokens; at++) {
            batch.token[at] = (sequence * 31 + (start + at) * 7) % words;
            batch.pos[at] = start + at;
            batch.n_seq_id[at] = 1;
            batch.seq_id[at][0] = sequence;
            batch.logits[at] = 0;
        }
        if (llama_decode(context, batch)) {
            return false;
        }
    }
    return true;
}

int main(int argc, char ** argv) {
    if (argc < 6 || argc > 8) {
        return 2;
    }
    const int streams = atoi(argv[2]), steps = atoi(argv[3]), threads = atoi(argv[5]);
    const int depth = argc > 6 ? atoi(argv[6]) : 0;
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = atoi(argv[4]);
    llama_model * model = llama_model_load_from_file(argv[1], model_params);
    if (!model) {
        return 3;
    }
    llama_context_params params = llama_context_default_params();
    params.n_ctx = streams * (512 + depth);
    params.n_batch = params.n_ubatch = MOST;
    params.n_seq_max = streams;
    params.n_threads = params.n_threads_batch = threads;
    params.kv_unified = argc < 8 || strcmp(argv[7], "each");
    llama_context * context = llama_init_from_model(model, params);
    if (!context) {
        return 4;
    }
    const int words = llama_vocab_n_tokens(llama_model_get_vocab(model));
    llama_batch batch = llama_batch_init(MOST, 0, 1);
    for (int sequence = 0; sequence < streams; sequence++) {
        if (!read_prompt(context, batch, sequence, depth, words)) {
            return 6;
        }
    }
    std::vector<llama_token> next(streams, 100);
    auto begun = std::chrono::steady_clock::now();
    const int unmeasured = 16;  // graphs are recorded, clocks rise
    for (int step = 0; step < steps + unmeasured; step++) {
        if (step == unmeasured) {
            begun = std::chrono::steady_clock::now();
        }
        batch.n_tokens = streams;
        for (int at = 0; at < streams; at++) {
            batch.token[at] = next[at];
            batch.pos[at] = depth + step;
            batch.n_seq_id[at] = 1;
            batch.seq_id[at][0] = at;
            batch.logits[at] = 1;
        }
        if (llama_decode(context, batch)) {
            return 5;
        }
        for (int at = 0; at < streams; at++) {
            const float * row = llama_get_logits_ith(context, at);
            next[at] = std::max_element(row, row + words) - row;
        }
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begun;
    printf("%f\n", streams * steps / seconds.count());
    return 0;
}
