"""The measurements of bench_peers with pictures: requests and answers → figures."""

import base64
import random
import statistics
import struct
import zlib
from collections.abc import Iterator

from benchlib import Message, Unmeasurable, user, words
from peer_trials import Figure, Trial

SIDE, CELL = 448, 14  # pixels of a picture, and of its squares of one color
NUM_AT_ONCE = 4
NUM_ANSWERED = 16  # tokens of the first turn's answer


def picture(seed: str) -> bytes:
    """A PNG file of colored squares."""
    chance = random.Random(seed)
    cells = SIDE // CELL
    rows = b""
    for _ in range(cells):
        row = b"".join(chance.randbytes(3) * CELL for _ in range(cells))
        rows += (b"\0" + row) * CELL  # a filter's number before each row: none
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def looking(trial: Trial, label: object) -> Message:
    """A message with a picture that the server has not seen, and a question."""
    if trial.setup.mmproj is None:
        raise Unmeasurable("needs --mmproj and its --model: scripts/make_seeing writes both")
    seed = f"{trial.seed} {label}"
    url = "data:image/png;base64," + base64.b64encode(picture(seed)).decode()
    image = {"type": "image_url", "image_url": {"url": url}}
    return {"role": "user", "content": [image, {"type": "text", "text": words(seed, 20)}]}


def picture_turns(trial: Trial) -> Iterator[Figure]:
    """Seconds to the first token of a picture and 20 words, and of the next turn's 20 words."""
    firsts, seconds = [], []
    for number in range(NUM_AT_ONCE):
        history = [looking(trial, number)]
        [stream] = trial.server.ask([history], NUM_ANSWERED)
        firsts.append(stream.first_token_s)
        answered: Message = {"role": "assistant", "content": stream.answer().texts[0]}
        history += [answered, user(words(f"{trial.seed} {number} then", 20))]
        [stream] = trial.server.ask([history], 1)
        seconds.append(stream.first_token_s)
    yield Figure(f"first token of a {SIDE} x {SIDE} picture", "s", statistics.median(firsts))
    yield Figure("first token of its second turn", "s", statistics.median(seconds))


def pictures_at_once(trial: Trial) -> Iterator[Figure]:
    """Seconds to the first tokens of pictures whose requests come at the same time."""
    prompts = [[looking(trial, number)] for number in range(NUM_AT_ONCE)]
    first_s = [stream.first_token_s for stream in trial.server.ask(prompts, 1)]
    yield Figure(
        f"{NUM_AT_ONCE} pictures at once, median first token", "s", statistics.median(first_s)
    )
    yield Figure(f"{NUM_AT_ONCE} pictures at once, the last one", "s", max(first_s))
