"""A signed assertion instead of a client secret: `private_key_jwt` (RFC 7523 §2.2, §3).

Pure, apart from the late import of PyJWT: the optional extra `jwt` has it. Signing takes
milliseconds of CPU, so callers on an event loop do it in a thread (P11).
"""

from __future__ import annotations

from revos.errors import RevosConfigurationError

__all__ = ["ALGORITHMS", "LIFETIME", "sign_assertion"]

# With a shared key (HS256) or none it would not be `private_key_jwt`.
ALGORITHMS = frozenset(
    f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512)
) | {"EdDSA"}

# In seconds. Servers that accept 60 s at most measure it on their own clock, hence the margin.
LIFETIME = 55


def sign_assertion(
    *,
    client_id: str,
    audience: str,
    private_key: str,
    key_id: str | None,
    algorithm: str,
    now: float,
    jti: str,
) -> str:
    """A JWT in which the client says who it is, for one request.

    :param audience: who may accept it: the token endpoint, or what the server wants to be called
    :param private_key: PEM, unencrypted
    :param key_id: the `kid` by which the server finds the public key, or None
    :param now: seconds since the epoch; `exp` is 55 s later
    :param jti: an id that no other assertion has (RFC 7523 §3, 7.)
    :raises RevosConfigurationError: the extra is missing, or the key can't be used; neither the
        text nor the chain has anything of the key
    """
    if algorithm not in ALGORITHMS:
        raise RevosConfigurationError(
            f"assertion_algorithm {algorithm!r} can't sign for private_key_jwt: "
            f"use one of {', '.join(sorted(ALGORITHMS))}"
        )
    try:
        import cryptography  # noqa: F401 - PyJWT installs without it, and then knows no such key.
        import jwt
    except ImportError as error:
        raise RevosConfigurationError(
            'private_key_jwt needs PyJWT and cryptography: pip install "revos[jwt]"'
        ) from error
    issued_at = int(now)
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "jti": jti,
        "iat": issued_at,
        "exp": issued_at + LIFETIME,
    }
    try:
        return jwt.encode(
            claims,
            private_key,
            algorithm=algorithm,
            headers=None if key_id is None else {"kid": key_id},
        )
    except Exception as error:  # noqa: BLE001 - keys fail in many ways, and each may quote the key.
        problem = type(error).__name__
    # Raised out here, where no exception is being handled: it would stay reachable as the context.
    raise RevosConfigurationError(
        f"the private key of client id {client_id!r} can't sign with {algorithm} ({problem}): "
        "check private_key_file (a private key in PEM, not encrypted) and assertion_algorithm"
    )
