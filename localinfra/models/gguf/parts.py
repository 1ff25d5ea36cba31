"""Models that are split into several files, as llama_model_loader puts them together.

Opens no file.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec

from localinfra.models.gguf.header import BadGguf, GgufHeader

MAX_PARTS = 1000  # the largest published models have a hundred


def whole(first: GgufHeader, read: Callable[[Path], GgufHeader]) -> GgufHeader:
    """The header of all parts together, which `read` reads one by one. Raises BadGguf."""
    number, count = first.metadata.get("split.no", 0), first.metadata.get("split.count", 1)
    if (number, count) == (0, 1):
        return first
    path = Path(first.path)
    if not (isinstance(count, int) and 1 < count <= MAX_PARTS):
        raise BadGguf(path, f"claims to be one of {count!r} parts; fetch it again")
    if number != 0:
        raise BadGguf(
            path, f"is one of {count} parts; give the first one, …{part_ending(0, count)}"
        )
    if not path.name.endswith(part_ending(0, count)):
        raise BadGguf(
            path, f"is the first of {count} parts: its name must end in {part_ending(0, count)}"
        )
    parts = [first]
    for at, other in enumerate(part_paths(path, count)[1:], start=1):
        part = read(other)
        if part.metadata.get("split.no") != at:
            raise BadGguf(part.path, f"is not part {at + 1} of {count}; fetch it again")
        parts.append(part)
    tensors = [tensor for part in parts for tensor in part.tensors]
    expected = first.metadata.get("split.tensors.count")
    if len({tensor.name for tensor in tensors}) != len(tensors) or len(tensors) != expected:
        raise BadGguf(path, f"and its parts have not the {expected} tensors announced; fetch all")
    size_bytes = sum(part.size_bytes for part in parts)
    return msgspec.structs.replace(
        first, tensors=tuple(tensors), size_bytes=size_bytes, num_parts=count
    )


def part_paths(first: Path, count: int) -> list[Path]:
    """The files of a model, of which `first` is the first or only one."""
    if count == 1:
        return [first]
    names = first.name.removesuffix(part_ending(0, count))
    return [first.with_name(names + part_ending(at, count)) for at in range(count)]


def part_ending(number: int, count: int) -> str:
    """Of the file names of a split model's parts (llama_split_path)."""
    return f"-{number + 1:05}-of-{count:05}.gguf"
