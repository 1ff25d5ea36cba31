"""Smaller attempts with the same fault, and files to repeat them with."""

import copy
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fuzzing.generator import Attempt
from fuzzing.values import Json, places
from fuzzing.wire import whole

MOST_TRIALS = 80
MOST_S = 20.0


def shrunk(attempt: Attempt, has_fault: Callable[[Attempt], bool]) -> Attempt:
    """Members left out and texts cut as long as the fault stays; the attempt itself if it can't be
    told again, or has no JSON body."""
    if attempt.body is None or not attempt.delivery.is_plain:
        return attempt
    until, trials = time.monotonic() + MOST_S, 0
    plain = attempt.with_body(attempt.body)
    if not has_fault(plain):
        return attempt
    goes_on = True
    while goes_on:
        goes_on = False
        for body in smaller(plain.body):
            trials += 1
            if trials > MOST_TRIALS or time.monotonic() > until:
                return plain
            if has_fault(other := plain.with_body(body)):
                plain, goes_on = other, True
                break
    return plain


def smaller(body: Json) -> Iterator[Json]:
    """Each with one thing less, what is nearest to the root first."""
    count = len(list(places([body])))
    for number in range(1, count):
        whole_body = copy.deepcopy([body])
        container, key = list(places(whole_body))[number]
        del container[key]
        yield whole_body[0]
    for number in range(1, count):
        whole_body = copy.deepcopy([body])
        container, key = list(places(whole_body))[number]
        value = container[key]
        if type(value) in (str, list) and len(value) > 1:
            container[key] = value[: len(value) // 2]
            yield whole_body[0]


def write(attempt: Attempt, faults: list[str], answer: bytes, folder: Path, seed: int) -> Path:
    """`NUMBER.sh` repeats it with curl where curl can say it, `NUMBER.bytes` is what was sent."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{attempt.number}"
    (folder / f"{name}.bytes").write_bytes(b"".join(attempt.delivery.packets))
    (folder / f"{name}.answer").write_bytes(answer)
    lines = [
        "#!/bin/sh",
        f"# {attempt.route.operation}: {attempt.kind}",
        *(f"# {fault}" for fault in faults),
        f"# the attempt itself: scripts/fuzz --seed {seed} --only {attempt.number}",
    ]
    request = attempt.request
    if attempt.delivery == whole(request):
        (folder / f"{name}.body").write_bytes(request.body)
        headers = [f"{k.decode('latin-1')}: {v.decode('latin-1')}" for k, v in request.headers]
        command = ["curl", "-i", "--path-as-is", "-X", request.method]
        for header in headers:
            command += ["-H", header]
        if request.body:
            command += ["--data-binary", f"@{folder.resolve() / name}.body"]
        target = request.target.decode("latin-1")
        lines.append(f'{shlex.join(command)} "$URL"{shlex.quote(target)}')
    else:
        lines.append(f'nc localhost "$PORT" < {shlex.quote(str(folder.resolve() / name))}.bytes')
    path = folder / f"{name}.sh"
    path.write_text("\n".join(lines) + "\n", errors="replace")
    return path
