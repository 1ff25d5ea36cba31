"""The process that decodes compressed sound: a file on standard input → a line of JSON and samples
on standard output. Run as a program."""

import os
import sys
from typing import TYPE_CHECKING

import msgspec

from localinfra.sounds.decoding import AGAIN, DecodingRequest, DecodingResult
from localinfra.sounds.heard import BadSound, check_length, check_shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMATS = ("MP3", "FLAC", "OGG")
CPU_SECONDS, MEMORY_BYTES = 120, 1 << 30
BLOCK = 1 << 16  # samples of each channel
SPARE_SECONDS = 0.2  # by which encoders' headers may be wrong: they pad


def main() -> None:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    _limit()
    request = msgspec.json.decode(sys.argv[1].encode(), type=DecodingRequest)
    try:
        pieces = _samples(request)
    except BadSound as error:
        result, pieces = DecodingResult(str(error)), []
    except MemoryError:
        result, pieces = DecodingResult(f"takes too much memory to decode; {AGAIN}"), []
    else:
        result = DecodingResult(num_samples=sum(map(len, pieces)))
    sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
    for piece in pieces:
        sys.stdout.buffer.write(piece.data)
    sys.stdout.buffer.flush()


def _limit() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, limit in (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        low = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (low, hard))


def _samples(request: DecodingRequest) -> "list[NDArray[np.float32]]":
    """In pieces, one after the other."""
    try:
        import soundfile
    except (ImportError, OSError):  # no wheel for this machine, and no libsndfile
        raise BadSound(
            "is compressed, and this server lacks libsndfile, which decodes it; send it as WAV"
        ) from None
    import numpy as np

    from localinfra.sounds.resampling import Resampler

    try:
        with soundfile.SoundFile(sys.stdin.buffer.fileno(), closefd=False) as file:
            if file.format not in FORMATS:
                raise BadSound(f"is a file of type {file.format[:20]}, which is not read; {AGAIN}")
            rate, claimed, num_samples = file.samplerate, file.frames, 0
            check_shape(file.channels, rate)
            resampler = Resampler(rate, request.rate)
            while len(piece := file.read(BLOCK, dtype="float32", always_2d=True)):
                num_samples += len(piece)
                # not by what the header says: a stream may have no end
                check_length(num_samples, rate, request.max_seconds)
                mono = piece.mean(axis=1, dtype=np.float32)
                resampler.push(np.clip(mono, -1, 1, out=mono))
    except soundfile.LibsndfileError as error:
        raise BadSound(f"can't be decoded ({error.error_string.rstrip('.')}); {AGAIN}") from None
    check_length(num_samples, rate, request.max_seconds)
    if num_samples < claimed - SPARE_SECONDS * rate:
        raise BadSound(
            f"claims {claimed:,} samples, of which {num_samples:,} can be decoded; send all of it"
        )
    resampler.finish()
    return resampler.pieces


if __name__ == "__main__":
    main()
