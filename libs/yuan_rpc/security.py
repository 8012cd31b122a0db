"""Who may call: the bearer token in its file, TLS and mutual TLS, and what is refused for want of them.

A server on loopback asks for the token of a file that only its user can read. Beyond loopback it does not start without
a token, nor without TLS unless `plaintext` says that the network is trusted; a client sends no token in clear text to
another machine either. Health is answered without a token (probes of container engines have none), reflection is not.
"""

import hmac
import os
import secrets
import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import grpc

from yuan_events import InputError
from yuan_rpc.addresses import is_loopback
from yuan_rpc.watched import Watched

_T = TypeVar("_T")

TOKEN_KEY = "authorization"  # noqa: S105
"""Metadata key of the token: `Bearer …`."""


@dataclass(frozen=True)
class Tls:
    """Files of TLS, all PEM.

    Attributes:
        certificate: the server's chain.
        key: its private key, without a pass phrase.
        authority: certificates that a client trusts; None: those of the system.
        client_authority: a server that has it demands a client certificate signed by it (mutual TLS).
        client_certificate: what a client shows then; None: `certificate`.
        client_key: the private key of that; None: `key`.
    """

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None
    client_authority: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    def watched(self, read: Callable[[], _T]) -> Watched[_T]:
        """Returns what `read` makes of these files, made anew when one of them has changed."""
        return Watched(read, *(getattr(self, field.name) for field in fields(self)))


@dataclass(frozen=True)
class Security:
    """What a server asks of callers, and what a client brings.

    Attributes:
        token_file: file of the bearer token; None: no token, which only loopback allows. Of several, one a line, all
            hold for a server and the first is what a client brings.
        tokens: file of issued tokens, which a server lets in, too; None: none.
        tls: None: clear text.
        plaintext: allows clear text beyond loopback, for a network that nobody else is on.
    """

    token_file: Path | None = None
    tokens: Path | None = None
    tls: Tls | None = None
    plaintext: bool = False

    def token(self) -> str | None:
        """Reads the token.

        Raises:
            InputError: see `read_token`.
        """
        return None if self.token_file is None else read_token(self.token_file)

    def token_source(self) -> Callable[[], str | None]:
        """Returns what tells the token as its file says at the moment.

        Raises:
            InputError: see `read_token`; only here, not when it is asked.
        """
        file = self.token_file
        return (lambda: None) if file is None else Watched(partial(read_token, file), file).get

    def check_server(self, service: str, bind: str) -> None:
        """Refuses to listen beyond loopback without protection.

        Raises:
            InputError: naming what is missing and its key.
        """
        if is_loopback(bind):
            return
        if self.token_file is None:
            raise InputError(
                f"{service} would listen on {bind} without a token: "
                f"set cluster.security.token_file, or cluster.services.{service}.bind to 127.0.0.1"
            )
        if self.tls is None and not self.plaintext:
            raise InputError(
                f"{service} would listen on {bind} in clear text: set cluster.security.tls, "
                "or cluster.security.plaintext to true if nobody else is on that network"
            )

    def check_client(self, service: str, host: str) -> None:
        """Refuses to send the token to another machine in clear text.

        Raises:
            InputError: naming the key.
        """
        if self.token_file is not None and self.tls is None and not self.plaintext and not is_loopback(host):
            raise InputError(
                f"the token would go to {host} ({service}) in clear text: set cluster.security.tls, "
                "or cluster.security.plaintext to true if nobody else is on that network"
            )


def ensure_token_file(path: Path) -> None:
    """Makes a file with a random token, readable by its owner alone, unless it exists.

    Of several processes that do so at once, one makes it and all find the same token.

    Raises:
        InputError: if it cannot be written, or exists and is refused by `read_token`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write(secrets.token_urlsafe(32) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                # A link appears whole and fails where another process was first; a rename would replace that one's.
                path.hardlink_to(draft)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
    except OSError as error:
        raise InputError(
            f"{path}: cannot make the token file: {error.strerror}; see cluster.security.token_file"
        ) from error
    read_token(path)


def read_token(path: Path) -> str:
    """Reads the token that a client brings: the first of its file.

    Raises:
        InputError: as `read_tokens`.
    """
    return read_tokens(path)[0]


def read_tokens(path: Path) -> tuple[str, ...]:
    """Reads a token file: one token a line, the newest first.

    Raises:
        InputError: if it is missing, empty, no token, or others than its owner can read it.
    """
    try:
        mode = path.stat().st_mode
        lines = path.read_text(encoding="ascii").split("\n")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no token file; `yuan up` makes one, or set cluster.security.token_file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot read the token file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no token file: it holds bytes that are not ASCII") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(f"{path}: others can read the token file (mode {mode & 0o777:04o}); run: chmod 600 {path}")
    tokens = tuple(line.strip() for line in lines if line.strip())
    if not tokens or any(len(token.split()) != 1 for token in tokens):
        raise InputError(f"{path}: is no token file: expected one word a line; delete it and `yuan up` makes a new one")
    return tokens


def read_secret(path: Path, key: str) -> str:
    """Reads a file that holds one secret word, a password.

    Args:
        path: of the file.
        key: the manifest's that names it, for messages.

    Raises:
        InputError: if it is missing or empty, or others than its owner can read it.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = (getattr(error, "strerror", None) or "it is no text").lower()
        raise InputError(f"{path}: cannot read this secret: {reason}; see {key}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(f"{path}: others can read this secret (mode {mode & 0o777:04o}); run: chmod 600 {path}")
    if not text or len(text.split()) != 1:
        raise InputError(f"{path}: expected one word; see {key}")
    return text


def bearer(token: str) -> str:
    """Returns the metadata value of a token."""
    return f"Bearer {token}"


def is_bearer(value: str | bytes, token: str) -> bool:
    """Returns whether a metadata value carries the token, in a time that does not tell how much of it is right."""
    given = value.encode() if isinstance(value, str) else value
    return hmac.compare_digest(given, bearer(token).encode())


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Returns a server's TLS; with `client_authority`, clients must show a certificate signed by it.

    Files that are replaced hold from the next connection on.

    Raises:
        InputError: naming the file that is missing or wrong, and its key.
    """

    def read() -> grpc.ServerCertificateConfiguration:
        certificate, key = _identity(tls.certificate, tls.key, "")
        return grpc.ssl_server_certificate_configuration([(key, certificate)], _authority(tls.client_authority))

    watched = tls.watched(read)
    used = first = watched.get()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        before, used = used, watched.get()
        return None if used is before else used

    # gRPC takes None for "as before"; its type stubs do not know.
    return grpc.dynamic_ssl_server_credentials(
        first,
        cast("Callable[[], grpc.ServerCertificateConfiguration]", fetch),
        require_client_authentication=tls.client_authority is not None,
    )


def channel_credentials(tls: Tls) -> grpc.ChannelCredentials:
    """Returns a client's TLS; where the manifest asks for mutual TLS, with its own certificate.

    Raises:
        InputError: naming the file that is missing or wrong, and its key.
    """
    authority = _authority(tls.authority)
    if tls.client_authority is None and tls.client_certificate is None:
        return grpc.ssl_channel_credentials(authority)
    own = tls.client_certificate is not None
    pair = (tls.client_certificate, tls.client_key) if own else (tls.certificate, tls.key)
    certificate, key = _identity(*pair, "client_" if own else "")
    return grpc.ssl_channel_credentials(authority, key, certificate)


def _identity(certificate: Path | None, key: Path | None, prefix: str) -> tuple[bytes, bytes]:
    if certificate is None or key is None:
        missing = "certificate" if certificate is None else "key"
        raise InputError(f"cluster.security.tls.{prefix}{missing} is missing; TLS needs a certificate and its key")
    contents = (_read(certificate, f"{prefix}certificate"), _read(key, f"{prefix}key"))
    try:
        # gRPC takes anything and fails at the first handshake; the standard library looks at once.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        raise InputError(
            f"{certificate} and {key} are no certificate and key that belong together (PEM, no pass phrase): "
            f"see cluster.security.tls.{prefix}certificate"
        ) from error
    return contents


def _authority(path: Path | None) -> bytes | None:
    if path is None:
        return None
    contents = _read(path, "authority")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise InputError(f"{path}: holds no certificates in PEM; see cluster.security.tls.authority") from error
    return contents


def _read(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; see cluster.security.tls.{key}") from error
