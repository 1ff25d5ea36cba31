"""The settings file: where it is found, what it may say, and how mistakes in it are told."""

import os
import threading
from pathlib import Path

import pytest

from localinfra.config import settings as config_file
from localinfra.config import sizes
from localinfra.config.settings import ServerSettings
from localinfra.errors import ConfigError


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCALINFRA_CONFIG", raising=False)
    monkeypatch.delenv("LOCALINFRA_API_KEYS", raising=False)


def written(folder: Path, text: str) -> Path:
    path = folder / "models.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config_file.load(written(folder, text))
    return str(caught.value).replace(f"{folder}/", "")


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    loaded = config_file.load(written(tmp_path, ""))
    assert loaded.server == ServerSettings()
    assert loaded.models == {}
    assert loaded.folder == tmp_path


def test_the_file_is_the_one_given_else_the_environments_else_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config_file.load().path == config_file.shipped_file()
    here = written(tmp_path, "[server]\nport = 1\n")
    monkeypatch.setenv("LOCALINFRA_CONFIG", str(here))
    assert config_file.load().server.port == 1
    (tmp_path / "other").mkdir()
    other = written(tmp_path / "other", "[server]\nport = 2\n")
    assert config_file.load(other).server.port == 2


def test_an_installed_package_has_the_shipped_file_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_file, "PACKAGE", tmp_path / "localinfra")
    assert config_file.shipped_file() == tmp_path / "models.toml"
    (tmp_path / "localinfra").mkdir()
    inside = written(tmp_path / "localinfra", "")
    assert config_file.shipped_file() == inside


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in (tmp_path / "no.toml", None):
        monkeypatch.setenv("LOCALINFRA_CONFIG", str(tmp_path / "no.toml"))
        with pytest.raises(ConfigError, match=r"no\.toml: no such settings file"):
            config_file.load(given)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nhst = 'x'", "models.toml: [server] hst: unknown key; did you mean host?"),
        ("[server]\nport = 70000", "[server] port: expected an integer from 0 to 65535, got 70000"),
        ("[server]\nport = true", "[server] port: expected an integer from 0 to 65535, got true"),
        (
            "[server]\nkeepalive_s = 0",
            "[server] keepalive_s: expected a number above 0, at most 86400, got 0",
        ),
        ("[server]\nbody_timeout_s = nan", "[server] body_timeout_s: expected a number"),
        ("[server]\nlog_level = 'loud'", '"debug", "error", "info" or "warning", got "loud"'),
        ("[server]\nallowed_origins = ['https://a.b/']", "allowed_origins[0]: expected an origin"),
        ("[server]\nhost = ''", "[server] host: expected a host name or address"),
        (
            "[server]\nollama_api = false\nollama_port = 11434",
            "[server] ollama_port: it is of no use without ollama_api = true",
        ),
        ("[servr]\nport = 1", "models.toml: servr: unknown table; did you mean server?"),
        ("server = 3", "models.toml: server: expected a table, written [server]"),
        ("[server\nport = 1", "models.toml: not valid TOML: "),
    ],
)
def test_a_mistake_is_named_with_file_table_and_key(
    tmp_path: Path, text: str, message: str
) -> None:
    assert message in refusal(tmp_path, text)


def test_a_syntax_error_names_its_line(tmp_path: Path) -> None:
    assert "line 2" in refusal(tmp_path, "[server]\nport 1\n")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_bytes(b"\xff\xfe[server]")
    with pytest.raises(ConfigError, match="not UTF-8"):
        config_file.load(tmp_path / "models.toml")


TEXT = '[server]\r\nport = 7\r\nhost = "k\u00fcche"\n'


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_bytes(TEXT.encode("utf-8-sig"))
    assert (config_file.load(path).server.port, config_file.load(path).server.host) == (
        7,
        "k\u00fcche",
    )


@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("utf-32", "UTF-32"),
        ("latin-1", "(at line 3)"),
        ("cp1252", "(at line 3)"),
    ],
)
def test_another_encoding_is_named_with_what_to_do(
    tmp_path: Path, encoding: str, told: str
) -> None:
    path = tmp_path / "models.toml"
    path.write_bytes(TEXT.encode(encoding))
    with pytest.raises(ConfigError) as caught:
        config_file.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not UTF-8 text") and told in message
    assert message.endswith("save it as UTF-8")


@pytest.mark.parametrize("text", [f"a = {'[' * 5000}", f"a = {'9' * 5000}"])
def test_toml_that_python_can_not_parse_is_an_error(tmp_path: Path, text: str) -> None:
    assert refusal(tmp_path, text).startswith("models.toml: not valid TOML: ")


def test_a_folder_is_not_a_file_and_a_pipe_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder; give the settings file in it"):
        config_file.load(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # as of `--config <(...)`
    writer = threading.Thread(target=pipe.write_text, args=("[server]\nport = 7",))
    writer.start()
    assert config_file.load(pipe).server.port == 7
    writer.join()


def test_all_mistakes_in_a_table_are_reported_together(tmp_path: Path) -> None:
    text = "[server]\nhst = 'x'\nport = -1\nmax_queue = 0"
    assert len(refusal(tmp_path, text).splitlines()) == 3


@pytest.mark.parametrize("key", ["api_keys", "allowed_hosts"])
def test_lists_in_the_environment_replace_the_files(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, f"[server]\n{key} = ['of-the-file']")
    monkeypatch.setenv(f"LOCALINFRA_{key.upper()}", " , ")
    assert getattr(config_file.load(path).server, key) == ("of-the-file",)
    monkeypatch.setenv(f"LOCALINFRA_{key.upper()}", "one, two")
    assert getattr(config_file.load(path).server, key) == ("one", "two")


def test_keys_are_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "[server]\napi_keys = ['s3cret']")
    assert "s3cret" not in repr(config_file.load(path))
    for mistake in ("'s3cret'", "['s3cret key']", "[['s3cret']]", "['s3cret', 3]"):
        message = refusal(tmp_path, f"[server]\napi_keys = {mistake}")
        assert "[server] api_keys" in message
        assert "s3cret" not in message
    monkeypatch.setenv("LOCALINFRA_API_KEYS", "s3crét")
    with pytest.raises(ConfigError, match="environment LOCALINFRA_API_KEYS") as caught:
        config_file.load(written(tmp_path, ""))
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_loopback_needs_no_key(host: str) -> None:
    ServerSettings(host=host).check_exposure()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "my-laptop", "localhost.evil"])
def test_other_addresses_need_a_key_or_explicit_permission(host: str) -> None:
    with pytest.raises(ConfigError, match="api_keys") as caught:
        ServerSettings(host=host).check_exposure()
    assert host in str(caught.value)
    assert "allow_unauthenticated" in str(caught.value)
    ServerSettings(host=host, api_keys=("k",)).check_exposure()
    ServerSettings(host=host, allow_unauthenticated=True).check_exposure()


def test_endless_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="more than 16 MiB"):
        config_file.load(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("size", "num_bytes"),
    [("4GiB", 4 << 30), ("500 MB", 500 << 20), ("1.5GB", 3 << 29), ("64KiB", 1 << 16)],
)
def test_sizes_have_a_unit(size: str, num_bytes: int) -> None:
    assert sizes.num_bytes(size) == num_bytes


@pytest.mark.parametrize("size", ["4", "4 bytes", "-1GiB", "GiB", "1e9GiB", "4gib", ""])
def test_a_size_without_one_is_refused_with_an_example(tmp_path: Path, size: str) -> None:
    told = refusal(tmp_path, f'[server]\ndisk_cache = "{size}"\n')
    assert "disk_cache" in told and 'such as "4GiB"' in told
