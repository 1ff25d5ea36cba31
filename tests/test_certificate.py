"""Which certificates a server takes, and what it says of others. See tests/certificates/make."""

import os
import ssl
from pathlib import Path

import pytest
from serving import CERTIFICATES

from localinfra.certificate import PASSWORD, Files, read, trusting
from localinfra.config import settings as config_file
from localinfra.config.settings import ServerSettings, local_url
from localinfra.errors import ConfigError
from localinfra.origin import Origin


def files(cert: str, key: str | None = None) -> Files:
    return Files(str(CERTIFICATES / cert), str(CERTIFICATES / key) if key else None)


@pytest.fixture(autouse=True)
def no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSWORD, raising=False)


@pytest.mark.parametrize(
    "given", [("first.pem", "first.key"), ("both.pem",), ("self_signed.pem", "first.key")]
)
def test_certificates_that_are_taken(given: tuple[str, ...]) -> None:
    assert read(files(*given)).fault == ""


def test_an_encrypted_key_is_read_with_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, "secret")
    assert read(files("first.pem", "encrypted.key")).fault == ""


def test_an_expired_certificate_is_taken_with_a_warning() -> None:
    assert "expired" in read(files("expired.pem", "expired.key")).fault


@pytest.mark.parametrize(
    ("cert", "key", "password", "words"),
    [
        ("absent.pem", None, "", ("tls_cert", "absent.pem", "No such file")),
        ("first.pem", "absent.key", "", ("tls_key", "absent.key", "No such file")),
        ("", "first.key", "", ("tls_cert", "directory")),
        ("first.pem", "second.key", "", ("second.key is not the key of", "made together")),
        ("first.key", "first.key", "", ("private key and no certificate",)),
        ("first.pem", None, "", ("no private key", "first.pem")),
        ("make", "first.key", "", ("not a certificate in PEM", "BEGIN CERTIFICATE")),
        ("first.pem", "encrypted.key", "", ("is encrypted", PASSWORD, "openssl pkey")),
        ("first.pem", "encrypted.key", "wrong", (PASSWORD, "is wrong")),
    ],
)
def test_others_are_refused_with_what_to_do(
    cert: str,
    key: str | None,
    password: str,
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(PASSWORD, password)
    with pytest.raises(ConfigError) as caught:
        read(files(cert, key))
    assert all(word in str(caught.value) for word in words)


def test_damaged_and_other_forms_are_told_apart(tmp_path: Path) -> None:
    text = (CERTIFICATES / "first.pem").read_text()
    der, damaged = tmp_path / "der", tmp_path / "damaged"
    der.write_bytes(ssl.PEM_cert_to_DER_cert(text))
    damaged.write_text(text.replace("M", "N", 20))
    key = str(CERTIFICATES / "first.key")
    with pytest.raises(ConfigError, match="openssl x509 -inform der"):
        read(Files(str(der), key))
    with pytest.raises(ConfigError, match="is damaged: copy it anew"):
        read(Files(str(damaged), key))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "cert").touch(0o000)
    with pytest.raises(ConfigError, match="Permission denied"):
        read(Files(str(tmp_path / "cert")))


def test_a_clients_trust_is_for_this_certificate_alone() -> None:
    """Not for others of the same authority, which stand behind it in the file."""
    assert len(trusting(str(CERTIFICATES / "both.pem")).get_ca_certs()) <= 1


# --- In the settings ----------------------------------------------------------------------------


def test_paths_start_at_the_settings_file_and_make_urls_https(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text('[server]\ntls_cert = "a.pem"\ntls_key = "/b.key"\n')
    server = config_file.load(tmp_path / "models.toml").server
    assert (server.tls_cert, server.tls_key) == (str(tmp_path / "a.pem"), "/b.key")
    assert local_url(server) == "https://localhost:8000"
    assert local_url(ServerSettings()) == "http://localhost:8000"


def test_a_key_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text('[server]\ntls_key = "b.key"\n')
    with pytest.raises(ConfigError, match="of no use without tls_cert"):
        config_file.load(tmp_path / "models.toml")


def test_settings_with_a_bad_certificate_are_refused_as_a_whole(tmp_path: Path) -> None:
    """So that a reload changes nothing."""
    (tmp_path / "models.toml").write_text('[server]\ntls_cert = "absent.pem"\n')
    with pytest.raises(ConfigError, match=r"absent\.pem: No such file"):
        Origin(tmp_path / "models.toml").read()
