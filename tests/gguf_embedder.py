"""Writes the BERT of a sentence-transformers folder as a GGUF file, as llama.cpp reads it."""

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}


def name_of(tensor: str) -> str | None:
    if tensor in EMBEDDINGS:
        return EMBEDDINGS[tensor]
    if not tensor.startswith("encoder.layer."):
        return None
    _, _, number, rest = tensor.split(".", 3)
    part, _, kind = rest.rpartition(".")
    return f"blk.{number}.{LAYER[part]}.{kind}"


def write_gguf(folder: Path, target: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    writer = gguf.GGUFWriter(target, "bert")
    writer.add_name(folder.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_vocab_size(config["vocab_size"])
    ordered = sorted(vocabulary, key=vocabulary.__getitem__)
    marks = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("bert")
    writer.add_token_list([token if token in marks else spelled(token) for token in ordered])
    writer.add_token_types([control if token in marks else normal for token in ordered])
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_bos_token_id(vocabulary["[CLS]"])
    writer.add_sep_token_id(vocabulary["[SEP]"])
    writer.add_eos_token_id(vocabulary["[SEP]"])
    writer.add_unk_token_id(vocabulary["[UNK]"])
    writer.add_pad_token_id(vocabulary["[PAD]"])
    writer.add_mask_token_id(vocabulary["[MASK]"])
    for tensor, values in load_file(folder / "model.safetensors").items():
        if name := name_of(tensor.removeprefix("bert.")):
            is_matrix = values.ndim == 2 and name.endswith("weight") and "blk" in name
            writer.add_tensor(name, values.astype(np.float16 if is_matrix else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def spelled(token: str) -> str:
    """llama.cpp marks beginnings of words, BERT the other parts."""
    return token[2:] if token.startswith("##") else "\u2581" + token
