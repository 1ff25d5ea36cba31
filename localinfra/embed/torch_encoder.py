"""sentence-transformers and torch: the reference that all other ways must match.

Besides `prepare.py`, which runs in a child process, the only importer of both.
"""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from localinfra.embed.encoder import Description, Kind, Rows, Tokens, arrays_of
from localinfra.embed.tokenizer import FastTokenizer
from localinfra.errors import ModelUnavailable
from localinfra.torch_loads import one_at_a_time

CPU_BATCH_TOKENS = 1024  # larger batches exceed a core's caches
GPU_BATCH_TOKENS = 16_384

OWN_MODULES = "sentence_transformers."
# Names of pickles that the libraries read → what they read instead where it is there. Other .bin
# files are no pickles, such as OpenVINO's.
SAFE_NAMES = {"pytorch_model": "model", "adapter_model": "adapter_model"}

SAMPLES = ["the end", "Two rivers, 3 stones."]


class TorchEncoder:
    num_lanes = 1

    def __init__(
        self,
        folder: Path,
        kind: Kind,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        threads: int | None = None,
        batch_tokens: int | None = None,
        max_tokens: int | None = None,
    ):
        """Raises ModelUnavailable if the folder can't be used."""
        check_folder(folder)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would compete with the others
        import torch
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
        self._torch = torch
        if threads:
            torch.set_num_threads(threads)
        options: dict[str, Any] = {
            "device": device,
            "trust_remote_code": False,
            "local_files_only": True,
            "model_kwargs": {"use_safetensors": True, "dtype": getattr(torch, dtype)},
        }
        self.network = load_network(folder, kind, options)
        self.tokenizer_json = tokenizer_of(self.network, folder)
        self.name = f"torch {dtype} on {device}"
        self._device = device
        self.batch_tokens = batch_tokens or (
            CPU_BATCH_TOKENS if device == "cpu" else GPU_BATCH_TOKENS
        )
        self.description = describe(self.network, kind, max_tokens)
        check_reading(self.network, folder, self.description, self.tokenizer_json)
        self.width = self.description.width

    def encode(self, batch: Sequence[Tokens], *, is_alone: bool = True) -> Rows:
        if not self.description.needs_prompt_length:
            return self._encode(batch)
        # The network takes one prompt length per batch.
        rows: Rows = np.empty((len(batch), self.width), np.float32)
        for length in {tokens.num_prompt for tokens in batch}:
            at = [row for row, tokens in enumerate(batch) if tokens.num_prompt == length]
            rows[at] = self._encode([batch[row] for row in at], prompt_length=length)
        return rows

    def _encode(self, batch: Sequence[Tokens], **extra: int) -> Rows:
        tensors: dict[str, Any] = {
            name: self._torch.from_numpy(array).to(self._device)
            for name, array in arrays_of(batch, self.description).items()
        }
        with self._torch.inference_mode():
            rows: Rows = rows_of(self.network, {**tensors, **extra}).float().cpu().numpy()
        return rows

    def close(self) -> None:
        del self.network


def check_folder(folder: Path) -> None:
    """Raises ModelUnavailable if the folder would need pickles or foreign code."""
    if not folder.is_dir():
        raise ModelUnavailable(
            f"{folder} is not a folder; an embedder is a folder of files.", "model"
        )
    for pickled, safe in SAFE_NAMES.items():
        for weights in folder.rglob(f"{pickled}*.bin"):
            if has_safetensors(weights.parent, safe):
                continue
            raise ModelUnavailable(
                f"{weights} is a Python pickle, which can run code; only safetensors are loaded. "
                "Download the model's safetensors files, or convert it.",
                "model",
            )
    modules = folder / "modules.json"
    if modules.exists():
        try:
            listed = json.loads(modules.read_text())
            types = [str(module["type"]) for module in listed]
            places = [(folder / str(module.get("path", ""))).resolve() for module in listed]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ModelUnavailable(f"{modules} can't be read.", "model") from None
        if outside := [one for one in places if not one.is_relative_to(folder.resolve())]:
            raise ModelUnavailable(
                f"{modules} names files outside of its folder ({outside[0]}), which nobody has "
                "checked: put them into it.",
                "model",
            )
        if foreign := [kind for kind in types if not kind.startswith(OWN_MODULES)]:
            raise ModelUnavailable(
                f"{folder} needs custom code ({foreign[0]}), which is never run here.", "model"
            )


def has_safetensors(folder: Path, name: str) -> bool:
    """Whether the libraries find these weights as safetensors, whole or in shards."""
    ends = (".safetensors", ".safetensors.index.json")
    return any((folder / f"{name}{end}").is_file() for end in ends)


def load_network(folder: Path, kind: str, options: dict[str, Any]) -> Any:
    import sentence_transformers

    loader = (
        sentence_transformers.SentenceTransformer
        if kind == "embedding"
        else sentence_transformers.CrossEncoder
    )
    try:
        with one_at_a_time:
            network = loader(str(folder), **options)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelUnavailable(f"{folder} can't be loaded: {str(error)[:500]}", "model") from None
    network.eval()
    return network


def usable_gpu() -> str | None:
    """Torch's name of the GPU it can use, if any."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else None


def tokenizer_of(network: Any, folder: Path) -> str:
    """The tokenizer as the text of a tokenizer.json."""
    backend = getattr(network.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelUnavailable(
            f"{folder} has no fast tokenizer; a tokenizer.json is needed.",
            "model",
        )
    return str(backend.to_str())


def describe(network: Any, kind: Kind, max_tokens: int | None) -> Description:
    tokenizer = network.tokenizer
    limits = [max_tokens, network.max_seq_length, tokenizer.model_max_length]
    pooling = [module for module in network.modules() if hasattr(module, "include_prompt")]
    return Description(
        kind=kind,
        width=network.get_embedding_dimension() if kind == "embedding" else network.num_labels,
        max_tokens=min(limit for limit in limits if limit),
        pad_id=tokenizer.pad_token_id or 0,
        takes_types=kind == "rerank" and "token_type_ids" in tokenizer.model_input_names,
        is_left_padded=tokenizer.padding_side == "left",
        prompts=dict(network.prompts),
        default_prompt=network.prompts.get(network.default_prompt_name or "", ""),
        needs_prompt_length=any(not module.include_prompt for module in pooling),
    )


def check_reading(network: Any, folder: Path, described: Description, json: str) -> None:
    """Raises ModelUnavailable unless texts are tokenized here as by the library, without a
    template, and a pair gets one score."""
    tokenizer = FastTokenizer(json, described.max_tokens)
    if described.kind == "rerank":
        if described.width != 1 or described.default_prompt:
            raise ModelUnavailable(
                f"{folder} gives {described.width} scores per pair, or needs a prompt; only "
                "cross-encoders with one score and without a prompt can rerank.",
                "model",
            )
        read = tokenizer.tokenize_pairs("A river", SAMPLES)
        expected = [network.preprocess([("A river", text)]) for text in SAMPLES]
    else:
        read = tokenizer.tokenize(SAMPLES)
        expected = [network.preprocess([text]) for text in SAMPLES]
    if [tokens.ids for tokens in read] != [one["input_ids"][0].tolist() for one in expected]:
        raise ModelUnavailable(
            f"{folder} prepares texts in a way that is not supported here (perhaps a chat "
            "template); choose another model.",
            "model",
        )


def rows_of(network: Any, features: dict[str, Any]) -> Any:
    """The network's rows [num_texts, width] for features [num_texts, longest], as a tensor."""
    outputs = network(features)
    if "sentence_embedding" in outputs:
        return outputs["sentence_embedding"]
    scores = network.activation_fn(outputs["scores"])
    return scores if scores.ndim == 2 else scores.unsqueeze(-1)  # one label, or several
