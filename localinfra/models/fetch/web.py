"""A GGUF file at any address.

Its server promises a size and an ETag. Only a hash that the user gives (`#sha256=…`) says whether
the bytes are right; without one the file must at least begin as GGUF.
"""

import hashlib
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

from localinfra.errors import ModelNotFound, PullFailed
from localinfra.models import places, quants
from localinfra.models.fetch.line import Line, check
from localinfra.models.fetch.pace import PACE, Pace, Passing, Patience, brief
from localinfra.models.fetch.plan import Plan, PlannedFile
from localinfra.models.fetch.transfer import Blob, Hash, size_of, validator
from localinfra.models.sources import UrlSource

START = "bytes=0-23"  # the magic and the counts of a GGUF header


def plan_url(source: UrlSource, stop: threading.Event, pace: Pace = PACE) -> Plan:
    """Raises PullRefused, ModelNotFound and PullFailed."""
    links = [source.own_path.with_name(name) for name in quants.parts(source.own_path.name)]
    with Line(pace=pace) as line:
        urls = zip(parts(source.url), links, strict=True)
        blobs = [probe(source, url, link.name, line, stop) for url, link in urls]
    folder = places.own_store() / "blobs"
    older = (folder.glob(f"{prefix(blob.url)}*") for blob in blobs if not blob.hash)
    kept = {blob.path for blob in blobs}
    return Plan(
        source,
        tuple(PlannedFile(*pair) for pair in zip(blobs, links, strict=True)),
        source.own_path,
        obsolete=tuple(path for found in older for path in found if path not in kept),
        refusal=f"{urlsplit(source.url).hostname} wants a login, which localinfra has not.",
    )


def prefix(url: str) -> str:
    """Of the names of all contents that the URL has had."""
    return f"url-{digest(url)}-"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def parts(url: str) -> Iterator[str]:
    """The URLs of all parts of the file."""
    pieces = urlsplit(url)
    for path in quants.parts(pieces.path):
        yield urlunsplit(pieces._replace(path=path))


def probe(source: UrlSource, url: str, name: str, line: Line, stop: threading.Event) -> Blob:
    """Asks for the size and the ETag of the file at `url`, which is the source or a part of it."""
    patience = Patience(brief(line.pace), stop)
    while True:
        try:
            with line.get(url, {"Range": START}) as response:
                check(response)
                size = size_of(response)
                etag = validator(response)
            break
        except Passing as fault:
            patience.wait(fault)
    host = urlsplit(url).hostname
    if size is None:
        raise PullFailed(f"{host} does not say how large the file is; is it a file?")
    if size == 0:
        raise ModelNotFound(f"The file at {host} is empty.", "model")
    sha256 = source.sha256 if url == source.url else None
    key = f"sha256-{sha256}" if sha256 else f"{prefix(url)}{digest(etag or '')}"
    path, lock = places.own_blob(key)
    return Blob(
        name=name,
        url=url,
        size_bytes=size,
        path=path,
        lock=lock,
        hash=Hash("sha256", sha256) if sha256 else None,
        etag=etag,
    )
