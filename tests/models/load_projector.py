"""Run as a program: has each projector named on stdin encode a picture or a sound, for the
model named in the first argument.

Prints one line per file: `loaded`, or `refused` if llama.cpp returns an error. A crash ends the
process before its line, which the test that started it checks.
"""

import sys
from pathlib import Path

import numpy as np

from localinfra.llama.model import LoadFailed, Model, ModelSettings
from localinfra.llama.projector import Projector, ProjectorSettings
from localinfra.picture_parts import EncodingFailed
from localinfra.pictures import Pixels
from localinfra.sounds.samples import Samples

PICTURE = Pixels(70, 50, bytes(at % 251 for at in range(70 * 50 * 3)))
SOUND = Samples(np.linspace(-1, 1, 5000, dtype=np.float32), 16_000)


def use(path: Path, model: Model) -> str:
    try:
        projector = Projector(path, model, ProjectorSettings(threads=1, longest_sound_s=60.0))
        if not projector.sees and not projector.sample_rate:
            return "refused"
        if projector.sees:
            projector.sizes(Pixels(400, 300, b""))
            projector.read(PICTURE, lambda: None)
        if projector.sample_rate:
            projector.read(SOUND, lambda: None)
        projector.close()
    except (LoadFailed, EncodingFailed):
        return "refused"
    return "loaded"


if __name__ == "__main__":
    text_model = Model(Path(sys.argv[1]), ModelSettings(vocabulary_only=True))
    for line in sys.stdin:
        print(use(Path(line.strip()), text_model), flush=True)
