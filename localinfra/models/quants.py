"""Which GGUF files of a repository make up a model, from their names alone.

Opens no file. The rules are those of llama.cpp's `-hf OWNER/REPO:QUANT` (common/download.cpp), so
that one name means one file in both.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

DEFAULTS = ("Q4_K_M", "Q8_0")  # without a quant, in this order; else the first model
# Parts of names of files that are no model by themselves: projectors, statistics, drafts.
COMPANIONS = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
PART = re.compile(r"(?P<stem>.+)-(?P<at>\d{5})-of-(?!0{5})(?P<count>\d{5})\.gguf", re.I | re.A)
QUANT = re.compile(r"[-.](?P<quant>\w+)$", re.A)


def is_model(path: str) -> bool:
    name = PurePosixPath(path).name.lower()
    return name.endswith(".gguf") and not any(word in name for word in COMPANIONS)


def choose(paths: Iterable[str], quant: str | None) -> str | None:
    """Returns the model with this quant, or the usual one; the first part of one in parts."""
    models = sorted(path for path in paths if is_model(path) and not is_later_part(path))
    for wanted in (quant,) if quant else DEFAULTS:
        # A whole word first: F16 must not find BF16. llama.cpp would take the first that ends so.
        for start in (r"(?<![a-z0-9])", ""):
            pattern = re.compile(rf"{start}{re.escape(wanted)}[.-]", re.I)
            if found := next(filter(pattern.search, models), None):
                return found
    return models[0] if models and not quant else None


def is_later_part(path: str) -> bool:
    match = PART.fullmatch(path)
    return match is not None and int(match["at"]) != 1


def parts(path: str) -> list[str]:
    """All files of a model, given its first."""
    match = PART.fullmatch(path)
    if match is None:
        return [path]
    count = match["count"]
    return [f"{match['stem']}-{at:05}-of-{count}.gguf" for at in range(1, int(count) + 1)]


def projector(paths: Iterable[str], model: str) -> str | None:
    """Returns the mmproj file for the model: of the deepest directory on its path, then with its
    quant, then with the nearest number of bits."""
    folder = PurePosixPath(model).parent

    def fitness(path: str) -> tuple[int, bool, int, str]:
        depth = len(PurePosixPath(path).parts)
        return -depth, quant_of(path) != quant_of(model), abs(bits(path) - bits(model)), path

    fitting = [
        path
        for path in paths
        if path.lower().endswith(".gguf")
        and "mmproj" in PurePosixPath(path).name.lower()
        and folder.is_relative_to(PurePosixPath(path).parent)
    ]
    return min(fitting, key=fitness, default=None)


def quant_of(path: str) -> str:
    """Returns Q4_K_M for `a/model-Q4_K_M-00001-of-00002.gguf`, in capitals; "" if it has none."""
    match = PART.fullmatch(path)
    stem = match["stem"] if match else re.sub(r"\.gguf$", "", path, flags=re.I)
    found = QUANT.search(stem)
    return found["quant"].upper() if found else ""


def bits(path: str) -> int:
    """Returns 4 for Q4_K_M or NVFP4, 16 for BF16, 0 if the name doesn't say."""
    found = re.search(r"\d{1,3}", quant_of(path))
    return int(found[0]) if found else 0


def known(paths: Sequence[str]) -> list[str]:
    """The quants to choose from, for messages."""
    models = (path for path in sorted(paths) if is_model(path) and not is_later_part(path))
    return list(dict.fromkeys(quant_of(path) or path for path in models))
