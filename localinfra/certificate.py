"""The server's certificate: files, checked, as a context of `ssl`; and who trusts it.

All functions block, for milliseconds, or longer if the key is encrypted. Knows no socket.
"""

import contextlib
import os
import ssl
from pathlib import Path
from typing import NamedTuple

from localinfra.errors import ConfigError

PASSWORD = "LOCALINFRA_TLS_KEY_PASSWORD"
BEGINS, ENDS = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
MAX_PEM_BYTES = 1 << 20
EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED of openssl/x509_vfy.h


class Files(NamedTuple):
    """In PEM. The first certificate is the server's; those that lead to its authority follow."""

    cert: str
    key: str | None = None  # None: in the same file

    @property
    def stamp(self) -> tuple[object, ...]:
        """Changes whenever one of them does."""
        return tuple(map(stamp_of, (self.cert, self.key or self.cert)))


class Certificate(NamedTuple):
    context: ssl.SSLContext  # of a server
    fault: str  # why clients will refuse it; "" if nothing is known


class PasswordMissing(Exception):
    pass


def read(files: Files) -> Certificate:
    """Raises ConfigError, saying what to do, if they can't serve as they are."""
    cert, key = text_of("tls_cert", files.cert), files.key or files.cert
    if BEGINS not in cert:
        raise ConfigError(f"tls_cert: {files.cert} {what_else(cert)}")
    if "PRIVATE KEY-----" not in text_of("tls_key", key):
        raise ConfigError(
            f"tls_key: {key} has no private key in PEM: name the file that was made with "
            f"{files.cert}."
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    password = os.environ.get(PASSWORD)
    try:
        context.load_cert_chain(files.cert, key, lambda: asked(password))
    except PasswordMissing:
        raise ConfigError(
            f"tls_key: {key} is encrypted: set its password in the environment as {PASSWORD}, or "
            f"decrypt it: openssl pkey -in {key} -out NEW-FILE"
        ) from None
    except ssl.SSLError as error:
        raise ConfigError(unusable(files.cert, key, cert, error, password)) from None
    return Certificate(context, fault_of(context, cert))


def asked(password: str | None) -> str:
    """Without this, OpenSSL would ask a terminal."""
    if not password:
        raise PasswordMissing
    return password


def text_of(setting: str, path: str) -> str:
    """Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_PEM_BYTES).decode("latin-1")
    except OSError as error:
        raise ConfigError(f"{setting}: {path}: {error.strerror or error}") from None


def what_else(text: str) -> str:
    if "PRIVATE KEY-----" in text:
        return "has a private key and no certificate: name the certificate's file."
    if text.startswith("\x30\x82"):  # DER
        return "is not in PEM but in DER: openssl x509 -inform der -in FILE -out NEW-FILE"
    return f"is not a certificate in PEM: it has no line {BEGINS}"


def unusable(cert: str, key: str, text: str, error: ssl.SSLError, password: str | None) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return (
            f"tls_key: {key} is not the key of {cert}: name the two files that were made together."
        )
    if error.reason and error.reason.endswith("_TOO_SMALL"):  # EE_KEY_TOO_SMALL
        return f"tls_cert: the key of {cert} is too short to be safe: make a new certificate."
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=leaf(text))
    except ssl.SSLError:
        return f"tls_cert: {cert} is damaged: copy it anew."
    if password:
        return f"tls_key: {key} can't be read: it is damaged, or {PASSWORD} is wrong."
    return f"tls_key: {key} is damaged, or of a kind that OpenSSL does not know ({error.reason})."


def leaf(text: str) -> str:
    """The first certificate of a PEM file."""
    start = text.find(BEGINS)
    return text[start : text.find(ENDS, start) + len(ENDS)] + "\n"


def fault_of(context: ssl.SSLContext, cert: str) -> str:
    """Why a client refuses the certificate although it trusts it: the two talk, in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = trusting_text(cert).wrap_bio(to_client, to_server)
    for _ in range(4):  # a round trip or two
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError as error:
                if error.verify_code == EXPIRED:
                    return "it has expired, and clients refuse it: renew it"
                return f"clients refuse it: {error.verify_message}"
            except ssl.SSLError as error:
                return f"clients may refuse it: {error.reason}"
    return ""


# --- clients on this machine --------------------------------------------------------------------


def trusting(path: str) -> ssl.SSLContext:
    """A client's context for the server whose certificate's file is here: nothing else is trusted,
    so its names, which may be the ones that other machines use, need not fit. Raises ConfigError.
    """
    return trusting_text(text_of("tls_cert", path))


def trusting_text(text: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # no authority needs to be known
    with contextlib.suppress(ssl.SSLError):  # then it trusts nobody
        context.load_verify_locations(cadata=leaf(text))
    return context


def stamp_of(path: str) -> object:
    try:
        found = Path(path).stat()
    except OSError as error:
        return error.errno
    return found.st_ino, found.st_size, found.st_mtime_ns
