"""Other machines' devices, for layers of a model: llama.cpp's RPC backend.

llama.cpp ends its process if a peer can't be reached, speaks another version or goes away. So peers
are asked by a child first (run as a program, this module is that child); one that goes away later
ends this process all the same. Nothing is encrypted or authenticated.
"""

import ctypes
import socket
import sys
from collections.abc import Sequence

import msgspec

from localinfra import install
from localinfra.children import end_with_parent, module_command, result_of
from localinfra.llama.build_info import devices
from localinfra.llama.library import ggml, llama_cpp

COMMAND = module_command("localinfra.llama.peers")
CONNECT_S = 5.0
LIMIT_S = 60.0  # for what then hangs, and for a child on a busy machine
RPC_OPTION = "-DGGML_RPC=on"


class PeersUnusable(Exception):
    """The message says which, why, and what to do."""


class PeerDevice(msgspec.Struct, frozen=True):
    endpoint: str
    number: int  # of the peer's devices
    free_bytes: int

    @property
    def device(self) -> str:
        return device_name(self.endpoint, self.number)


def device_name(endpoint: str, number: int | str) -> str:
    """As `footprint.py` names devices."""
    return f"rpc:{endpoint}/{number}"


def ask(servers: Sequence[str]) -> list[PeerDevice]:
    """The peers' devices, in order. Blocks for a second or more. Raises PeersUnusable."""
    check_compiled()
    for server in servers:
        check_reachable(server)
    ended = result_of([*COMMAND, *servers], LIMIT_S)
    if ended.status:
        said = ended.errors.decode(errors="replace").strip().splitlines()
        why = next((line for line in said if "RPC" in line), f"status {ended.status}")
        if ended.hung:
            why = f"no answer within {LIMIT_S:g} s"
        raise PeersUnusable(
            f"{', '.join(servers)}: llama.cpp can't use it ({why[-200:]}). It must be "
            "ggml-rpc-server of the same llama.cpp as here"
        )
    return msgspec.json.decode(ended.out.strip().rpartition(b"\n")[2], type=list[PeerDevice])


def check_compiled() -> None:
    """Raises PeersUnusable if this llama.cpp has no RPC backend."""
    if not llama_cpp.llama_supports_rpc():
        raise PeersUnusable(
            "this llama.cpp was compiled without its RPC backend. This compiles one with it: "
            f"CMAKE_ARGS={RPC_OPTION} {install.rebuild()}"
        )


def check_reachable(server: str) -> None:
    """Raises PeersUnusable: the system's own words say more than llama.cpp's."""
    host, _, port = server.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise PeersUnusable(
            f"{server} can't be reached ({error.strerror or error}): start ggml-rpc-server there"
        ) from None


def device_pointers(servers: Sequence[str]) -> "ctypes.Array[ctypes.c_void_p]":
    """Of the peers' devices and of this machine's GPUs, ended by a null, as
    `llama_model_params.devices` takes them. Only after `ask`: this ends the process otherwise."""
    found = [pointer for server in servers for pointer in added(server)]
    gpus = {device.name for device in devices() if device.kind == "gpu"}
    gpus = gpus or {device.name for device in devices() if device.kind == "integrated gpu"}
    get = ggml("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    own = (at for at, device in enumerate(devices()) if device.name in gpus)
    found += [get(at) for at in own]
    return (ctypes.c_void_p * (len(found) + 1))(*found, None)


def added(server: str) -> list[int]:
    """Pointers to the devices of a peer. They live as long as the process, in no list that models
    without peers use."""
    by_name = ggml("ggml_backend_reg_by_name", ctypes.c_void_p, ctypes.c_char_p)
    address = ggml(
        "ggml_backend_reg_get_proc_address", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p
    )
    function = address(by_name(b"RPC"), b"ggml_backend_rpc_add_server")
    add = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(function)
    peer = add(server.encode())
    if not peer:
        return []  # it has no devices
    count = ggml("ggml_backend_reg_dev_count", ctypes.c_size_t, ctypes.c_void_p)
    get = ggml("ggml_backend_reg_dev_get", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    return [get(peer, at) for at in range(count(peer))]


def described(server: str) -> list[PeerDevice]:
    size_pointer = ctypes.POINTER(ctypes.c_size_t)
    memory = ggml("ggml_backend_dev_memory", None, ctypes.c_void_p, size_pointer, size_pointer)
    found = []
    for number, pointer in enumerate(added(server)):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        memory(pointer, ctypes.byref(free), ctypes.byref(total))
        found.append(PeerDevice(server, number, free.value))
    return found


def main() -> None:
    end_with_parent()
    llama_cpp.llama_backend_init()
    found = [device for server in sys.argv[1:] for device in described(server)]
    print(msgspec.json.encode(found).decode(), flush=True)


if __name__ == "__main__":
    main()
