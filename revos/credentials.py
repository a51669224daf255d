"""Where the two ways to authenticate get their credentials from (RFC 6749 §2.3, RFC 7523 §2.2).

Files are read again for every request, so a rotated secret is picked up without a restart.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from attrs import field, frozen

from revos.config import GatewayConfig
from revos.errors import RevosConfigurationError
from revos.oauth2 import Credential
from revos.policy import Way
from revos.secret_files import read_secret_file, warn_if_others_may_read

__all__ = ["CredentialSource", "credential_sources"]

logger = logging.getLogger("revos.credentials")


@frozen
class CredentialSource:
    """Where one way to authenticate gets its credential from, for every request anew."""

    method: str
    token_url: str
    client_id: str
    secret: str | None = field(repr=False)
    secret_file: str | None
    key_file: str | None
    key_id: str | None
    algorithm: str
    assertion_audience: str | None

    def read(self, warned: set[str]) -> Credential:
        """The credential as its files have it now.

        :param warned: files that others may read, and that were warned of; those found now join
        :raises OSError: a file can't be read
        :raises RevosConfigurationError: it is no regular file, not UTF-8, or empty
        """
        secret, key = self.secret, None
        if self.secret_file is not None:
            secret = _without_newline(_text_of(self.secret_file, warned))
        if self.key_file is not None:
            key = _text_of(self.key_file, warned)
        return Credential(
            method=self.method,
            token_url=self.token_url,
            client_id=self.client_id,
            secret=secret,
            private_key=key,
            key_id=self.key_id,
            algorithm=self.algorithm,
            assertion_audience=self.assertion_audience,
        )

    def has_credential(self) -> bool:
        if self.method == "private_key_jwt":
            return self.key_file is not None
        return self.secret is not None or self.secret_file is not None


def _text_of(path: str, warned: set[str]) -> str:
    try:
        text, found = read_secret_file(path)
    except UnicodeDecodeError:  # It holds what it could not decode.
        raise RevosConfigurationError(f"the file {path!r} is not UTF-8 text") from None
    if path not in warned and warn_if_others_may_read(logger, path, found):
        warned.add(path)
    if not text.strip():
        raise RevosConfigurationError(f"the file {path!r} is empty")
    return text


def _without_newline(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def credential_sources(config: GatewayConfig) -> Mapping[Way, CredentialSource]:
    """The ways that are configured: the primary, and the fallback where it is one.

    A fallback without a credential, or one that is the primary again, is none.
    """

    def source(
        method: str, token_url: str, client_id: str, secret: str | None, secret_file: str | None
    ) -> CredentialSource:
        signs = method == "private_key_jwt"
        return CredentialSource(
            method=method,
            token_url=token_url,
            client_id=client_id,
            secret=None if signs else secret,
            secret_file=None if signs else secret_file,
            key_file=config.private_key_file if signs else None,
            key_id=config.private_key_id,
            algorithm=config.assertion_algorithm,
            assertion_audience=config.assertion_audience,
        )

    primary = source(
        config.auth_method,
        config.token_url,
        config.client_id,
        config.client_secret,
        config.client_secret_file,
    )
    own_secret = config.fallback_client_secret or config.fallback_client_secret_file
    fallback = source(
        config.fallback_auth_method,
        config.fallback_token_url or config.token_url,
        config.fallback_client_id or config.client_id,
        config.fallback_client_secret if own_secret else config.client_secret,
        config.fallback_client_secret_file if own_secret else config.client_secret_file,
    )
    if not fallback.has_credential() or fallback == primary:
        return {Way.PRIMARY: primary}
    return {Way.PRIMARY: primary, Way.FALLBACK: fallback}
