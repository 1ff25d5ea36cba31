"""What the installed llama.cpp was compiled for, and which devices it sees.

Run as a child process, `python -m localinfra.llama.build_info [MODEL]`: a build that dies must not
take its caller (doctor, setup) with it. Prints
`BuildInfo` as JSON to standard output, after decoding one token if a MODEL is given; llama.cpp's
own log goes to standard error. Serving code uses only `free_memory`.
"""

import ctypes
import json
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version

from localinfra import machine
from localinfra.backend_detect import read
from localinfra.llama.library import ggml, llama_cpp
from localinfra.llama.load_log import device_of
from localinfra.llama_usable import CPUINFO, compiled_features

# enum ggml_backend_dev_type of ggml-backend.h, in its order
DEVICE_KINDS = ("cpu", "gpu", "integrated gpu", "accelerator", "meta")


@dataclass(frozen=True)
class Device:
    name: str
    description: str
    kind: str  # one of DEVICE_KINDS
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class BuildInfo:
    version: str  # of llama-cpp-python
    backends: tuple[str, ...]  # ggml's names: CPU, CUDA, MTL, Vulkan
    cpu_features: tuple[str, ...]  # compiled in: AVX2, FMA, NEON, ...
    gpu_offload: bool  # a GPU can be used now
    devices: tuple[Device, ...]


def build_info() -> BuildInfo:
    llama_cpp.llama_backend_init()
    system_info = llama_cpp.llama_print_system_info().decode()
    return BuildInfo(
        version=version("llama-cpp-python"),
        backends=backends(),
        cpu_features=compiled_features(system_info),
        gpu_offload=bool(free_memory()),  # llama.cpp counts other machines too
        devices=devices(),
    )


def unused_features() -> tuple[str, ...]:
    """What this CPU has and this build doesn't use: ready-made CUDA builds not even AVX2. () where
    the system doesn't say what the CPU has."""
    _, flags = machine.parse_cpuinfo(read(CPUINFO))
    compiled = compiled_features(llama_cpp.llama_print_system_info().decode())
    return tuple(name for name in machine.features_of(flags) if name not in compiled)


def backends() -> tuple[str, ...]:
    count = ggml("ggml_backend_reg_count", ctypes.c_size_t)
    get = ggml("ggml_backend_reg_get", ctypes.c_void_p, ctypes.c_size_t)
    name = ggml("ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)
    return tuple(name(get(i)).decode() for i in range(count()))


def devices() -> tuple[Device, ...]:
    count = ggml("ggml_backend_dev_count", ctypes.c_size_t)
    get = ggml("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    name = ggml("ggml_backend_dev_name", ctypes.c_char_p, ctypes.c_void_p)
    description = ggml("ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)
    kind = ggml("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    size_pointer = ctypes.POINTER(ctypes.c_size_t)
    memory = ggml("ggml_backend_dev_memory", None, ctypes.c_void_p, size_pointer, size_pointer)

    def describe(device: int) -> Device:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        memory(device, ctypes.byref(free), ctypes.byref(total))
        return Device(
            name(device).decode(),
            description(device).decode().strip(),
            DEVICE_KINDS[kind(device)],
            free.value,
            total.value,
        )

    return tuple(describe(get(i)) for i in range(count()))


def has_gpu() -> bool:
    """Whether this machine has one. `llama_supports_gpu_offload` also counts peers, even none."""
    return bool(free_memory())


def free_memory() -> dict[str, int]:
    """The free bytes of each GPU that llama.cpp would use, in its order; empty without one.

    An integrated GPU counts only if there is no other, as in llama.cpp.
    """
    found = devices()
    gpus = [device for device in found if device.kind == "gpu"]
    gpus = gpus or [device for device in found if device.kind == "integrated gpu"]
    return {device_of(gpu.name): gpu.free_bytes for gpu in gpus}


def decode_one_token(model_path: str) -> None:
    """Runs the kernels once, on the GPU if there is one. Raises RuntimeError if that fails."""
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 999
    model = llama_cpp.llama_model_load_from_file(model_path.encode(), parameters)
    if not model:
        raise RuntimeError(f"llama.cpp could not load {model_path}")
    context_parameters = llama_cpp.llama_context_default_params()
    context_parameters.n_ctx = context_parameters.n_batch = 256
    context_parameters.n_threads = context_parameters.n_threads_batch = 1
    context = llama_cpp.llama_init_from_model(model, context_parameters)
    if not context:
        raise RuntimeError("llama.cpp could not create a context")
    # 32 rows use the matrix kernels, the single row after them the vector kernels.
    tokens = (llama_cpp.llama_token * 32)(*[1] * 32)
    for num_tokens in (32, 1):
        if status := llama_cpp.llama_decode(
            context, llama_cpp.llama_batch_get_one(tokens, num_tokens)
        ):
            raise RuntimeError(f"llama_decode returned {status}")
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)


if __name__ == "__main__":
    info = build_info()
    for path in sys.argv[1:]:
        decode_one_token(path)
    print(json.dumps(asdict(info)))
