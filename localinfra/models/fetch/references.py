"""What people write after `pull` → the sources that are meant. Asks no server."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from localinfra.config.tables import close_matches
from localinfra.errors import InvalidRequest, ModelNotFound
from localinfra.models import places
from localinfra.models.catalog import MAX_KNOWN_CHARS, Catalog
from localinfra.models.entries import ModelEntry
from localinfra.models.sources import NAME, HubSource, RemoteSource, inner_path, parse_source

FORMS = (
    "a name of models.toml, hf:OWNER/REPO[:QUANT], hf:OWNER/REPO/FILE, ollama:NAME[:TAG] or a URL"
)
BARE = re.compile(f"{NAME}/{NAME}(:{NAME})?", re.A)
HERE = Path()
HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
# /OWNER/REPO, /OWNER/REPO/tree/main, /OWNER/REPO/resolve/main/FILE and its page /blob/main/FILE
HUB_PATH = re.compile(
    rf"/(?P<repo>{NAME}/{NAME})(:(?P<quant>{NAME}))?/?"
    r"((tree|resolve|blob|raw)/(?P<revision>[^/]+)(/(?P<file>.+))?)?",
    re.A,
)


def parse(text: str, catalog: Catalog) -> list[RemoteSource]:
    """Returns the sources to fetch: a model of models.toml may need two. Raises InvalidRequest, and
    ModelNotFound for a name that nothing has."""
    if (name := catalog.own_name(text)) is not None:
        return of_entry(name, catalog.entries[name])
    if len(text) > MAX_KNOWN_CHARS:  # urlsplit would keep it
        raise ModelNotFound(f"Nothing is called {text[:200]!r}. Pull {FORMS}.", "model")
    try:
        source = hub_page(text) or parse_source(with_scheme(text), HERE)
    except ValueError as error:
        raise InvalidRequest(f"{error}. Pull {FORMS}.", "model") from None
    if not isinstance(source, RemoteSource):
        close = close_matches(text, catalog.names_by_id)
        hint = f"Did you mean {' or '.join(close)}?" if close else f"Pull {FORMS}."
        raise ModelNotFound(f"Nothing is called {text[:200]!r}. {hint}", "model")
    return [source]


def with_scheme(text: str) -> str:
    return f"hf:{text}" if BARE.fullmatch(text) else text


def of_entry(name: str, entry: ModelEntry) -> list[RemoteSource]:
    sources = [entry.source, *entry.other_sources]
    remote = [source for source in sources if isinstance(source, RemoteSource)]
    if not remote:
        where = entry.source.find()
        what = f"are at {where}" if where else f"are not here: {entry.source.remedy(name)}"
        raise InvalidRequest(f"The files of {name} don't come from a hub; they {what}", "model")
    return remote


def hub_page(text: str) -> HubSource | None:
    """A page or a file of the hub, as copied from a browser. Raises ValueError for another branch
    than main: the cache's other users would not find it under its name."""
    if text.startswith(tuple(f"{host}/" for host in HUB_HOSTS)):
        text = f"https://{text}"
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or url.netloc not in (
        *HUB_HOSTS,
        urlsplit(places.hub_url()).netloc,
    ):
        return None
    match = HUB_PATH.fullmatch(unquote(url.path))
    if match is None:
        raise ValueError(f"expected the page of a model or a file in it, got {text[:200]!r}")
    if match["revision"] not in (None, "main"):
        raise ValueError(f"only the branch main can be pulled, not {match['revision']!r}")
    file = match["file"]
    return HubSource(match["repo"], inner_path(file) if file else None, quant=match["quant"])
