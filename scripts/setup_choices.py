"""setup.py's choices, on plain values; those of llama.cpp's builds are in the package."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass

from localinfra.backend_detect import BACKENDS


class SetupError(Exception):
    """Setup failed; the message says why and what to do."""


@dataclass(frozen=True)
class Pins:
    llama: str  # requirement of llama-cpp-python
    weights: tuple[str, ...]  # requirements of the packages that hold small chat models
    openvino: tuple[str, ...]


def pins(pyproject: str) -> Pins:
    project = tomllib.loads(pyproject)["project"]

    def find(name: str, requirements: Sequence[str]) -> str:
        return next(r for r in requirements if re.split(r"[=<>~!\[ ;]", r)[0] == name)

    extras = project["optional-dependencies"]
    return Pins(
        find("llama-cpp-python", project["dependencies"]),
        tuple(extras["demo"]),
        tuple(extras["openvino"]),
    )


def check_backend(value: str) -> None:
    if value not in ("", *BACKENDS):
        raise SetupError(
            f"LOCALINFRA_BACKEND={value} is not a backend. Use {', '.join(BACKENDS)}, or unset it "
            "to get what suits this machine."
        )
