"""A real FLUX pipeline with small random weights, made by the project's own script."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "make_tiny_flux"


def make_tiny_flux(folder: Path) -> Path:
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def write_gguf_transformer(pipeline: Path, file: Path) -> None:
    """The transformer of a pipeline as a GGUF file in Q8_0, under the names that diffusers gives
    its weights (those of original FLUX files have a fixed size)."""
    import gguf
    from safetensors.numpy import load_file

    [weights] = (pipeline / "transformer").glob("*.safetensors")
    writer = gguf.GGUFWriter(file, "flux")
    for name, tensor in load_file(weights).items():
        if tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
