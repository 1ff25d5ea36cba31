"""Models of Ollama's registry, or one that speaks its protocol: OCI manifests and blobs by digest.

Blobs that Ollama has on this machine are used where they are, and never written to.
"""

import threading

import msgspec

from localinfra.addresses import is_loopback
from localinfra.errors import InvalidRequest, ModelNotFound, PullFailed, PullRefused
from localinfra.models import places
from localinfra.models.companions import OLLAMA_OWN
from localinfra.models.fetch.line import Line
from localinfra.models.fetch.pace import PACE, Pace
from localinfra.models.fetch.plan import Plan, PlannedFile
from localinfra.models.fetch.transfer import Blob, Hash
from localinfra.models.places import (
    MANIFEST_LIMIT,
    OLLAMA_MODEL,
    OLLAMA_PROJECTOR,
    OllamaLayer,
    OllamaManifest,
)
from localinfra.models.sources import OllamaSource

ACCEPT = (
    "application/vnd.docker.distribution.manifest.v2+json, "
    "application/vnd.oci.image.manifest.v1+json"
)
ADAPTER = "application/vnd.ollama.image.adapter"
LICENSE = "application/vnd.ollama.image.license"
LICENSE_LIMIT = 1 << 20  # bytes


def plan_ollama(source: OllamaSource, stop: threading.Event, pace: Pace = PACE) -> Plan:
    """Raises ModelNotFound, InvalidRequest, PullRefused and PullFailed."""
    if blob := places.ollama_blob(source.path):
        return Plan(source, (), blob)
    with Line(pace=pace) as line:
        manifest = manifest_of(source, line, stop)
        shown = license_of(source, manifest, line, stop)
    model = manifest.layer(OLLAMA_MODEL)
    if model is None:
        raise InvalidRequest(f"{source.text} is no GGUF model.", "model")
    if manifest.layer(ADAPTER):
        raise InvalidRequest(
            f"{source.text} needs a LoRA adapter; pull its base model, and name the adapter under "
            "lora in models.toml.",
            "model",
        )
    files = [PlannedFile(blob_of(source, model), source.own_path)]
    if projector := manifest.layer(OLLAMA_PROJECTOR):
        link = source.own_path.with_name(OLLAMA_OWN)
        files.append(PlannedFile(blob_of(source, projector), link))
    return Plan(source, tuple(files), source.own_path, shown, refusal=refusal(source))


def manifest_of(source: OllamaSource, line: Line, stop: threading.Event) -> OllamaManifest:
    url = f"{base(source)}/manifests/{source.tag}"
    try:
        body = line.read(url, MANIFEST_LIMIT, stop, {"Accept": ACCEPT})
        found = msgspec.json.decode(body, type=OllamaManifest)
    except ModelNotFound:
        raise ModelNotFound(f"The registry has no model {source.text}.", "model") from None
    except PullRefused:
        raise PullRefused(refusal(source)) from None
    except msgspec.DecodeError as error:
        raise PullFailed(f"The manifest of {source.text} is not understood: {error}.") from None
    if any(not places.DIGEST.fullmatch(one.digest) or one.size < 0 for one in found.layers):
        raise PullFailed(f"The manifest of {source.text} has a layer without a SHA-256.")
    return found


def license_of(
    source: OllamaSource, manifest: OllamaManifest, line: Line, stop: threading.Event
) -> str | None:
    """The first line of its text, which usually is its name."""
    layer = manifest.layer(LICENSE)
    if layer is None or layer.size > LICENSE_LIMIT:
        return None
    text = line.read(f"{base(source)}/blobs/{layer.digest}", LICENSE_LIMIT, stop).decode(
        errors="replace"
    )
    first = next((row.strip() for row in text.splitlines() if row.strip()), "")
    return first[:100] if first.isprintable() and first else None


def blob_of(source: OllamaSource, layer: OllamaLayer) -> Blob:
    name = layer.digest.replace(":", "-")
    elsewhere = (places.ollama_file(folder, layer) for folder in places.ollama_folders())
    own, lock = places.own_blob(name)
    return Blob(
        name=f"{source.text.removeprefix('ollama:')}.gguf",
        url=f"{base(source)}/blobs/{layer.digest}",
        size_bytes=layer.size,
        path=next(filter(None, elsewhere), own),
        lock=lock,
        hash=Hash("sha256", layer.digest.removeprefix("sha256:")),
    )


def base(source: OllamaSource) -> str:
    registry, user, name, _ = source.path.split("/")
    scheme = "http" if is_loopback(registry.rpartition(":")[0]) else "https"
    return f"{scheme}://{registry}/v2/{user}/{name}"


def refusal(source: OllamaSource) -> str:
    return (
        f"The registry refuses {source.text} to strangers: get it with `ollama pull`, and "
        "localinfra uses Ollama's copy."
    )
