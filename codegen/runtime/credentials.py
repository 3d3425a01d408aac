"""Read the files that a server proves who it is with, and those that its clients do: certificate, key and token.

Every file is checked before anything is served, and an error names the file, what is wrong in it and the way out.
"""

from __future__ import annotations

import shlex
import ssl
from pathlib import Path

from .errors import ConfigError

_MOST_TOKEN_BYTES = 4096  # with room for the other headers in the head of a request
_OF_ANOTHER = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}
"""What OpenSSL calls a key of another certificate, of the same kind of key or of another kind."""


def check_tls(certificate: Path | None, key: Path | None) -> None:
    """Check that a certificate and a private key are readable and belong together; without both there is no TLS to check.

    Args:
        certificate: PEM file of the certificate chain.
        key: PEM file of the private key.

    Raises:
        ConfigError: If one of the two is missing, cannot be read, is not what it should be, or does not fit the other.
    """
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise ConfigError("TLS needs both --tls-cert and --tls-key")
    _read(certificate, "certificate")
    _read(key, "private key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cafile=certificate)
    except ssl.SSLError as error:
        raise ConfigError(
            f"the file {certificate} holds no certificate in PEM form",
            hint="--tls-cert wants the lines from BEGIN CERTIFICATE to END CERTIFICATE, the server's own certificate first",
        ) from error
    asked: list[Path] = []

    def passphrase() -> str:
        """Answer in place of the terminal, where nobody may sit."""
        asked.append(key)
        return ""

    try:
        context.load_cert_chain(certificate, key, passphrase)
    except (ssl.SSLError, ValueError) as error:
        raise _explain(certificate, key, getattr(error, "reason", None), encrypted=bool(asked)) from error


def read_token(path: Path) -> str:
    """Return the token in a file; a command line would show the token to every user of the machine.

    Raises:
        ConfigError: If the file cannot be read, or holds nothing that a header could carry.
    """
    content = _read(path, "token")
    hint = "--token-file wants one line of at most 4096 visible ASCII characters, as `openssl rand -hex 32` writes"
    try:
        token = content.decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise ConfigError(f"the token file {path} is not ASCII text", hint=hint) from error
    if not token:
        raise ConfigError(f"the token file {path} is empty", hint=hint)
    if len(token) > _MOST_TOKEN_BYTES:
        raise ConfigError(f"the token file {path} holds {len(token)} characters, too many for a header", hint=hint)
    if not all("!" <= character <= "~" for character in token):
        raise ConfigError(f"the token file {path} holds a blank or a control character inside the token", hint=hint)
    return token


def _explain(certificate: Path, key: Path, reason: str | None, *, encrypted: bool) -> ConfigError:
    """Return the error of a pair that OpenSSL does not take, although the certificate alone can be read."""
    if encrypted:
        plain = f"openssl pkey -in {shlex.quote(str(key))} -out plain.pem"
        return ConfigError(f"the private key in {key} is encrypted", hint=f"write the key without a passphrase: {plain}")
    if reason in _OF_ANOTHER:
        return ConfigError(
            f"the private key in {key} does not belong to the certificate in {certificate}",
            hint="give the key that the certificate was made for; where a chain is given, the server's own comes first",
        )
    if reason:
        words = reason.replace("_", " ").lower()
        return ConfigError(f"OpenSSL does not take the certificate in {certificate}: {words}", hint="make a stronger one")
    return ConfigError(
        f"the file {key} holds no private key in PEM form",
        hint="--tls-key wants the lines from BEGIN PRIVATE KEY to END PRIVATE KEY",
    )


def _read(path: Path, what: str) -> bytes:
    """Return the content of a file, which must be a regular one: a pipe would be read twice, a device has no end."""
    try:
        if not path.exists():
            raise ConfigError(f"there is no file {path}", hint=f"give the file of the {what}")
        if not path.is_file():
            raise ConfigError(f"{path} is no regular file", hint=f"give the file of the {what}")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the file {path} cannot be read: {error.strerror or error}",
            hint=f"let the user of the server read the file of the {what}",
        ) from error
