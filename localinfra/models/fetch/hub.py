"""Repositories of a Hugging Face hub: what is in them, which files a model needs, where they go.

Fetches listings only. They come from the hub's HTTP API, in answers of bounded size and checked
types; huggingface_hub gives the token, since it refreshes that of `hf auth login`.
"""

import logging
import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import msgspec

from localinfra.errors import InvalidRequest, ModelNotFound, PullFailed, PullRefused
from localinfra.models import places, quants
from localinfra.models.fetch import folders
from localinfra.models.fetch.line import Line
from localinfra.models.fetch.pace import PACE, Pace
from localinfra.models.fetch.plan import Plan, PlannedFile
from localinfra.models.fetch.transfer import Blob, Hash
from localinfra.models.sources import HubSource, inner_path

logger = logging.getLogger(__name__)

LISTING_LIMIT = 64 << 20  # bytes: some 200,000 files
TRUE = ("1", "ON", "YES", "TRUE")  # as huggingface_hub reads switches
COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")


class Lfs(msgspec.Struct, frozen=True):
    sha256: str
    size: int


class Sibling(msgspec.Struct, frozen=True, rename="camel"):
    """A file of the repository."""

    rfilename: str
    size: int | None = None
    blob_id: str | None = None  # the SHA-1 of Git
    lfs: Lfs | None = None

    @property
    def hash(self) -> Hash | None:
        if self.lfs and SHA256.fullmatch(self.lfs.sha256):
            return Hash("sha256", self.lfs.sha256)
        if not self.lfs and self.blob_id and COMMIT.fullmatch(self.blob_id):
            return Hash("git", self.blob_id)
        return None

    @property
    def is_usable(self) -> bool:
        """Whether it can be stored and verified: servers may list anything."""
        try:
            inner_path(self.rfilename)
        except ValueError:
            return False
        is_name = self.rfilename.isprintable() and len(self.rfilename) < 1000
        has_size = self.size is not None and 0 <= self.size < 1 << 50
        return is_name and has_size and self.hash is not None


class Repository(msgspec.Struct, frozen=True):
    """https://huggingface.co/docs/hub/api: GET /api/models/OWNER/REPO?blobs=true"""

    sha: str
    siblings: tuple[Sibling, ...] = ()
    pipeline_tag: str | None = None
    library_name: str | None = None
    card: dict[str, msgspec.Raw] | None = msgspec.field(default=None, name="cardData")

    @property
    def license(self) -> str | None:
        found = (self.card or {}).get("license")
        try:
            text = msgspec.json.decode(found, type=str | list[str]) if found else None
        except msgspec.DecodeError:
            return None
        shown = ", ".join(text) if isinstance(text, list) else text or ""
        return shown[:100] if shown.isprintable() and shown else None


def is_offline() -> bool:
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in TRUE


def token() -> str | None:
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in TRUE:
        return None
    if text := os.environ.get("HF_TOKEN"):
        return text.strip() or None
    from huggingface_hub import get_token

    try:
        return get_token()
    except Exception as error:  # refreshing it asks the hub, and may fail in any way
        logger.warning("no token of Hugging Face: %s", error)
        return None


def plan_hub(source: HubSource, stop: threading.Event, pace: Pace = PACE) -> Plan:
    """Raises ModelNotFound, InvalidRequest, PullRefused and PullFailed."""
    here = source.find()
    if here and not here.is_relative_to(places.hub_folder(source.repo)):
        return Plan(source, (), here)  # LM Studio's
    if is_offline():
        if here is None:
            raise PullFailed(f"{source.repo} is not here, and HF_HUB_OFFLINE is set: unset it.")
        return Plan(source, (), here)
    secret = token()
    with Line(secret, places.hub_url(), pace) as line:
        found = listing(source.repo, line, stop, has_token=secret is not None)
    siblings = {one.rfilename: one for one in found.siblings if one.is_usable}
    names = chosen(source, found, siblings)
    folder = places.hub_folder(source.repo)
    snapshot = folder / "snapshots" / found.sha
    is_file = not folders.is_folder(source, list(siblings))
    return Plan(
        exactly(source, names[0], list(siblings)) if is_file else source,
        tuple(
            PlannedFile(blob_of(source.repo, found.sha, siblings[name]), snapshot / name)
            for name in names
        ),
        snapshot / names[0] if is_file else snapshot,
        found.license,
        (folder / "refs" / "main", found.sha),
        unchanged(folder, snapshot, siblings),
        home=places.hub_url(),
        token=secret,
        refusal=refusal(source.repo, has_token=secret is not None),
    )


def listing(repo: str, line: Line, stop: threading.Event, *, has_token: bool) -> Repository:
    url = f"{places.hub_url()}/api/models/{repo}?blobs=true"
    try:
        found = msgspec.json.decode(line.read(url, LISTING_LIMIT, stop), type=Repository)
    except msgspec.DecodeError as error:
        raise PullFailed(
            f"{places.hub_url()} lists {repo} in a way not understood: {error}."
        ) from None
    except ModelNotFound:
        message = f"{places.hub_url()} has no model {repo!r}."
        raise ModelNotFound(message, "model") from None
    except PullRefused:  # also for what doesn't exist
        raise PullRefused(refusal(repo, has_token=has_token)) from None
    if not COMMIT.fullmatch(found.sha):
        raise PullFailed(f"{places.hub_url()} lists {repo} without a commit.")
    return found


def refusal(repo: str, *, has_token: bool) -> str:
    login = "use a token that may read it" if has_token else "log in with `hf auth login`"
    return (
        f"{repo} does not exist, is private, or wants its terms accepted: accept them at "
        f"{places.hub_url()}/{repo}, and {login} (or set HF_TOKEN), then try again."
    )


def chosen(source: HubSource, found: Repository, siblings: Mapping[str, Sibling]) -> list[str]:
    """The files that the source needs, the model first. Raises ModelNotFound and InvalidRequest."""
    names = list(siblings)
    if folders.is_folder(source, names):
        tags = (found.pipeline_tag or "", found.library_name or "")
        return folders.needed(source, names, tags)
    if source.file is None:
        model = quants.choose(names, source.quant)
    else:
        wanted = source.file.lower()
        model = next((name for name in names if name.lower() == wanted), None)
    if model is None:
        has = ", ".join(quants.known(names)[:30]) or "no GGUF file"
        raise ModelNotFound(f"{source.repo} has no {source.file or source.quant}: {has}.", "model")
    if folders.is_pickle(model):
        raise InvalidRequest(folders.pickled(source.repo, [model]), "model")
    files = quants.parts(model)
    if absent := [name for name in files if name not in siblings]:
        raise ModelNotFound(f"{source.repo} lacks a part of it: {absent[0]}.", "model")
    projector = quants.projector(names, model) if quants.is_model(model) else None
    return [*files, *([projector] if projector else [])]


def exactly(source: HubSource, model: str, names: Sequence[str]) -> HubSource:
    """The source that names this file, whatever else the repository has."""
    quant = quants.quant_of(model)
    if source.file is None and quant and quants.choose(names, quant) == model:
        return replace(source, quant=quant)
    return replace(source, quant=None, file=model)


def unchanged(
    folder: Path, snapshot: Path, siblings: Mapping[str, Sibling]
) -> tuple[tuple[Path, Path], ...]:
    """Name → blob, for what was fetched at an earlier commit and is the same in this one."""
    blobs = {path.name: path for path in (folder / "blobs").glob("*")}
    return tuple(
        (snapshot / name, blobs[one.hash.hex])
        for name, one in siblings.items()
        if one.hash and one.hash.hex in blobs
    )


def blob_of(repo: str, commit: str, sibling: Sibling) -> Blob:
    assert sibling.hash and sibling.size is not None, "it is usable"
    folder = places.hub_folder(repo)
    path = folder / "blobs" / sibling.hash.hex
    locks = places.hub_cache() / ".locks" / folder.name  # as huggingface_hub does
    return Blob(
        name=sibling.rfilename,
        url=f"{places.hub_url()}/{repo}/resolve/{commit}/{quote(sibling.rfilename)}",
        size_bytes=sibling.size,
        path=path,
        lock=locks / f"{path.name}.lock",
        hash=sibling.hash,
    )
