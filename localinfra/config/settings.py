"""Finds and reads the settings file, and decodes its `[server]` and `[ray]` tables.

The `[model."NAME"]` tables pass through raw: `models/catalog.py` interprets them.
Holds secrets, and never prints or logs them.
"""

import codecs
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from localinfra.addresses import is_loopback
from localinfra.config.scale import Scale, read_scale
from localinfra.config.sizes import AutoOrSize, Size
from localinfra.config.tables import decode, suggestion
from localinfra.errors import ConfigError
from localinfra.logs import LogFormat

PACKAGE = Path(__file__).parent.parent
MIB = 1024 * 1024
TABLES = ("server", "model", "ray")
FROM_ENVIRONMENT = {  # a container's settings without a file, and keys outside of files
    "LOCALINFRA_API_KEYS": "api_keys",
    "LOCALINFRA_ALLOWED_HOSTS": "allowed_hosts",
}
MAX_TEXT_BYTES = 16 << 20
FOREIGN_MARKS = (  # UTF-32 first: its little-endian BOM starts with UTF-16's
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)

# Visible ASCII, since it is sent in an HTTP header.
ApiKey = Annotated[
    str,
    Meta(
        pattern=r"^[\x21-\x7e]+$",
        description="a key of visible ASCII characters, without spaces",
        extra={"secret": True},
    ),
]
Host = Annotated[
    str, Meta(pattern=r"^[^\s/]+$", description='a host name or address such as "192.168.1.20"')
]
Origin = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9+.-]*://[^\s/]+$",
        description='an origin such as "https://app.example.org", without a path',
    ),
]
# Relative to the settings file.
FilePath = Annotated[str, Meta(pattern=r"^[^\0]+$", description="the path of a file")]
LogLevel = Literal["debug", "info", "warning", "error"]
LOG_LEVELS = get_args(LogLevel)
Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[server]` table."""

    # `scripts/make_settings_doc` copies these comments into docs/settings.md.

    host: Host = "localhost"  # address to listen on; localhost is both 127.0.0.1 and ::1
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8000  # port to listen on; 0 takes any free one
    # a certificate in PEM, followed by those that lead to its authority: all ports then speak TLS.
    # Its file is read again when it has changed, at the latest after a minute
    tls_cert: FilePath | None = None
    # its private key in PEM; default: in the same file. If it is encrypted,
    # LOCALINFRA_TLS_KEY_PASSWORD has its password
    tls_key: FilePath | None = None
    # every request needs one of these, or one made by `localinfra key new`; without any, anyone may
    # call
    api_keys: tuple[ApiKey, ...] = ()
    allow_unauthenticated: bool = False  # allow listening beyond loopback without a key
    allowed_hosts: tuple[Host, ...] = ()  # Host headers accepted besides loopback's and `host`
    allowed_origins: tuple[Origin, ...] = ()  # web pages that may call, besides loopback's
    max_body_bytes: Annotated[int, Meta(ge=1024)] = 16 * MIB  # largest request body
    body_timeout_s: Seconds = 30.0  # longest wait for a complete request body
    # limit of all request bodies still arriving, together; beyond it, only keys that have less than
    # their share send more
    max_unfinished_bytes: Annotated[int, Meta(ge=1024)] = 64 * MIB
    # memory that bodies of more than 64 kB take from their arrival until their requests have ended,
    # together: a text with an emoji takes four times its size. Beyond it, only keys that have less
    # than their share send more; others get a 429
    max_held_bytes: Annotated[int, Meta(ge=MIB)] = 512 * MIB
    # limit of all answers that clients have not read yet, together; beyond it, the client that has
    # read nothing for longest is cut off
    max_unread_bytes: Annotated[int, Meta(ge=MIB)] = 128 * MIB
    # answers of one key that run in the background at the same time; more get a 429
    max_background: Annotated[int, Meta(ge=1)] = 64
    # how long the events of such an answer can be read again after its end
    events_kept_s: Seconds = 600.0
    # limit of the events kept of one such answer; beyond it, the oldest are dropped
    max_answer_event_bytes: Annotated[int, Meta(ge=1024)] = 16 * MIB
    # the same of all of them together; beyond it, the key that has most of them loses those of its
    # oldest ended answer
    max_event_bytes: Annotated[int, Meta(ge=1024)] = 64 * MIB
    max_header_bytes: Annotated[int, Meta(ge=1024)] = 64 * 1024  # largest head of a request
    head_timeout_s: Seconds = 10.0  # longest wait for a request's complete head
    # how long an idle connection stays open; longer than most clients keep theirs
    idle_timeout_s: Seconds = 120.0
    write_timeout_s: Seconds = 60.0  # longest pause of a client in reading its answer
    max_connections: Annotated[int, Meta(ge=1)] = 1024  # connections open at the same time
    # the same from one address; loopback has no limit
    max_connections_per_address: Annotated[int, Meta(ge=1)] = 256
    # requests waiting for one model, shared equally among clients; more get a 429
    max_queue: Annotated[int, Meta(ge=1)] = 256
    # tokens that one request may take: those of its prompts, and as many as an answer may have for
    # each of its choices. Beyond that, answers whose length the request leaves open get an equal
    # share each; one that sets `max_tokens` gets a 400
    max_request_tokens: Annotated[int, Meta(ge=1)] = 8 * MIB
    # megapixels (of 1024 x 1024) times steps that one request may ask for, all its images together;
    # more is a 400
    max_megapixel_steps: Annotated[int, Meta(ge=1)] = 512
    # log probabilities of prompts in one answer with `echo`: tokens times choices times
    # (1 + alternatives); each takes about 20 bytes
    max_echoed_logprobs: Annotated[int, Meta(ge=1)] = 4 * MIB
    # let clients with different keys share the prefix cache; `cached_tokens` and the time to the
    # first token then reveal what others have asked
    share_prefixes: bool = False
    # memory that all models and their prefixes together may take, of main memory and of each GPU,
    # such as "12GiB"; auto: what is free, less a small reserve
    memory_budget: AutoOrSize = "auto"
    # a model that needs the memory of a busy one gets it after this long: the busy one then takes
    # no new requests, and is unloaded once those it has are done
    swap_wait_s: Seconds = 10.0
    # size of the files that keep conversations' prefixes across restarts, such as "4GiB", in the
    # cache; they hold what was said, in a form that only this server reads; default: no files
    disk_cache: Size | None = None
    # how long running answers may continue after SIGTERM or Ctrl-C; `docker stop` kills after 10 s,
    # which leaves 4 s to notify clients and free models
    shutdown_timeout_s: Seconds = 6.0
    watchdog_s: Seconds = 120.0  # a model that makes no progress for this long is reloaded
    keepalive_s: Seconds = 15.0  # a stream silent for this long gets a keep-alive
    # fetch the pictures that requests name by URLs, from public addresses alone; without it, only
    # data URLs are read
    fetch_images: bool = False
    image_urls_s: Seconds = 3600.0  # how long images requested as URLs are kept
    fallback_model: str | None = None  # model that answers to unknown model names
    # a folder whose models are served without a table, under their files' names
    models_dir: str | None = None
    # serve what `localinfra pull` and other programs have fetched, without a table
    serve_pulled: bool = True
    # seed of requests that name none, so that the same request gets the same answer; without it,
    # each gets a random one
    default_seed: Annotated[int, Meta(ge=0, le=4_294_967_295)] | None = None
    ollama_api: bool = True  # also answer Ollama's clients, below /api
    # also listen on this port, such as 11434, where Ollama's clients look; if another program has
    # it, the server says so and goes on
    ollama_port: Annotated[int, Meta(ge=1, le=65_535)] | None = None
    # keep the page's conversations on this server, for each key its own, instead of in the browser
    keep_chats: bool = False
    keep_costs: bool = True  # record each key's usage in the cache, for `localinfra costs`
    log_level: LogLevel = "info"  # debug also logs every request
    log_format: LogFormat = "text"  # json: one object per line, for programs

    def __post_init__(self) -> None:
        if self.ollama_port is not None and not self.ollama_api:
            raise ValueError("ollama_port: it is of no use without ollama_api = true")
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError("tls_key: it is of no use without tls_cert")

    def __repr__(self) -> str:
        hidden = f"<{len(self.api_keys)} hidden>"
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        shown = ", ".join(f"{k}={v!r}" for k, v in (values | {"api_keys": hidden}).items())
        return f"ServerSettings({shown})"

    def check_exposure(self, *, has_named_keys: bool = False) -> None:
        """Raises ConfigError if other machines could use the server without a key."""
        has_keys = self.api_keys or has_named_keys
        if not (has_keys or self.allow_unauthenticated or is_local(self.host)):
            raise ConfigError(
                f"serving on {self.host} without an API key would let anyone who reaches this "
                "machine use its models: make a key with `localinfra key new NAME`, set api_keys "
                "in [server] or LOCALINFRA_API_KEYS, or allow_unauthenticated = true in [server] "
                "if something else protects the address"
            )


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A settings file as read. Relative paths in it start at `folder`."""

    path: Path
    server: ServerSettings
    models: Mapping[str, object]  # the raw [model."NAME"] tables, for catalog.load
    scale: Scale = Scale()

    @property
    def folder(self) -> Path:
        return self.path.parent


def load(path: Path | None = None) -> Config:
    """Reads the settings from `path`, else from $LOCALINFRA_CONFIG, else the shipped file.

    The variables of `FROM_ENVIRONMENT` (comma separated) replace the file's lists.
    Raises ConfigError if the file is missing or unreadable, or has invalid TOML, keys or values.
    """
    path = find_file(path)
    config = read(read_toml(path), path)
    return msgspec.structs.replace(config, server=with_environment(config.server))


def read(tables: Mapping[str, object], path: Path) -> Config:
    """Settings from a file's tables, without the environment. Errors name `path`, and relative
    paths start in its folder. Raises ConfigError if a table, key or value is wrong."""
    for name in tables:
        if name not in TABLES:
            raise ConfigError(f"{path}: {name}: unknown table; {suggestion(name, TABLES)}")
    server = decode(subtable(tables, "server", path), ServerSettings, f"{path}: [server]")
    files = {name: found_from(path, getattr(server, name)) for name in ("tls_cert", "tls_key")}
    return Config(
        path=path,
        server=msgspec.structs.replace(server, **files),
        models=subtable(tables, "model", path),
        scale=read_scale(subtable(tables, "ray", path), path),
    )


def found_from(settings_file: Path, path: str | None) -> str | None:
    """The absolute path of a file that the settings name."""
    if path is None:
        return None
    return os.path.abspath(settings_file.parent / os.path.expanduser(path))


def with_environment(settings: ServerSettings) -> ServerSettings:
    """Puts the variables of `FROM_ENVIRONMENT` in. Raises ConfigError if one is invalid."""
    for variable, key in FROM_ENVIRONMENT.items():
        values = [value.strip() for value in os.environ.get(variable, "").split(",")]
        if any(values):  # empty means unset: a lost variable must not open the server
            table = {key: [value for value in values if value]}
            decoded = decode(table, ServerSettings, f"environment {variable}:")
            settings = msgspec.structs.replace(settings, **{key: getattr(decoded, key)})
    return settings


def find_file(path: Path | None) -> Path:
    """The settings file to read. Raises ConfigError if it does not exist."""
    if path is None and (named := os.environ.get("LOCALINFRA_CONFIG")):
        path = Path(named).expanduser()
    if path is not None:
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder; give the settings file in it")
        if not path.exists():
            raise ConfigError(f"{path}: no such settings file; {shipped_file()} is an example")
        return path
    return shipped_file()


def shipped_file() -> Path:
    """The default models.toml: inside an installed package, next to it in a checkout."""
    inside = PACKAGE / "models.toml"
    return inside if inside.is_file() else PACKAGE.parent / "models.toml"


def read_toml(path: Path) -> dict[str, object]:
    try:
        text = read_text(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, which ends with line and column
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not valid TOML: nested too deeply") from None


def read_text(path: Path) -> str:
    """Reads UTF-8 text, with a byte order mark or without.

    Raises OSError, and ValueError with a message for users if the file is not UTF-8 or too large.
    """
    with path.open("rb") as file:
        data = file.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise ValueError(f"it has more than {MAX_TEXT_BYTES >> 20} MiB: name a smaller file")
    encoding = next((name for mark, name in FOREIGN_MARKS if data.startswith(mark)), None)
    if encoding is None and b"\0" in data:
        encoding = "UTF-16 or a binary file"
    if encoding:
        raise ValueError(f"not UTF-8 text but {encoding}: save it as UTF-8")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"not UTF-8 text (at line {line}): save it as UTF-8") from None


def subtable(tables: Mapping[str, object], name: str, path: Path) -> dict[str, object]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        example = '[model."NAME"]' if name == "model" else f"[{name}]"
        raise ConfigError(f"{path}: {name}: expected a table, written {example}")
    return table


def local_url(server: ServerSettings, host: str | None = None, port: int | None = None) -> str:
    """The server's URL for clients on this machine; `host` and `port`, if they are known to be
    others than in its settings. A wildcard address becomes loopback."""
    host, port = host or server.host, port or server.port
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    scheme = "https" if server.tls_cert else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def is_local(host: str) -> bool:
    """Whether only this machine can reach `host`. Names except localhost may resolve anywhere."""
    return host.casefold() == "localhost" or is_loopback(host.strip("[]"))
