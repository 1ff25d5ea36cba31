"""Run as a program: has each projector named on stdin encode a picture, for the model named in the
first argument.

Prints one line per file: `loaded`, or `refused` if llama.cpp returns an error. A crash ends the
process before its line, which the test that started it checks.
"""

import sys
from pathlib import Path

from localinfra.llama.model import LoadFailed, Model, ModelSettings
from localinfra.llama.projector import Projector, ProjectorSettings
from localinfra.picture_parts import EncodingFailed
from localinfra.pictures import Pixels

PICTURE = Pixels(70, 50, bytes(at % 251 for at in range(70 * 50 * 3)))


def use(path: Path, model: Model) -> str:
    try:
        projector = Projector(path, model, ProjectorSettings(threads=1))
        if not projector.sees:
            return "refused"
        projector.sizes(400, 300)
        projector.read(PICTURE, lambda: None)
        projector.close()
    except (LoadFailed, EncodingFailed):
        return "refused"
    return "loaded"


if __name__ == "__main__":
    text_model = Model(Path(sys.argv[1]), ModelSettings(vocabulary_only=True))
    for line in sys.stdin:
        print(use(Path(line.strip()), text_model), flush=True)
