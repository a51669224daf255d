"""What can be configured: four tables of settings, each setting with its rule beside it.

The rules are in `rules.py`, how a class applies them in `settings.py`. Nothing here reads the
environment or a file; `loading.py` does.
"""

# Without `from __future__ import annotations`: the rules are read from the annotations.
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from attrs import field, frozen

from revos.errors import RevosConfigurationError
from revos.rules import (
    Rule,
    Unfit,
    file_path,
    is_safe_transport,
    log_format,
    log_level,
    number,
    one_of,
    parameters,
    prose,
    switch,
    text,
    url,
    whole,
)
from revos.settings import Problem, Ref, Settings, shown
from revos.unpickled import Unpickled

__all__ = [
    "AuthMethod",
    "Config",
    "GatewayConfig",
    "LoggingConfig",
    "ModelConfig",
    "TokenConfig",
    "match_key",
]

AuthMethod = Literal["client_secret_post", "client_secret_basic", "private_key_jwt"]
AssertionAlgorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]

TEN_YEARS = 10 * 365 * 24 * 3600

IN_ANOTHER_PROCESS = (
    "Call load_config() in the process that needs it, or hand over where its secret is: "
    "client_secret_file, or the name of an environment variable"
)


def match_key(name: str) -> str:
    """The normal form of a model's name: case does not matter, and `-`, `_` and `.` are alike.

    >>> match_key("GPT-4.1") == match_key("gpt_4_1")
    True
    """
    return name.casefold().replace("-", "_").replace(".", "_")


@frozen(kw_only=True)
class GatewayConfig(Unpickled, Settings):
    """The gateway, and how to get a token for it (the variables `REVOS_*`).

    :ivar client_secret_file: read again for every token request, instead of `client_secret`
    :ivar fallback_auth_method: of a second way to authenticate; what it does not set is as for the
        first, and without any credential there is none
    :ivar extra_token_params: more parameters of the token request; they may be secrets
    :ivar token_buffer_minutes: how long before its expiry a token is renewed
    :ivar request_timeout: seconds for one token request
    :ivar ca_file: certificates (PEM) to trust instead of the system's
    :ivar default_lifetime_seconds: of a token whose response does not say
    :raises RevosConfigurationError: names every setting that breaks its rule

    >>> gateway = GatewayConfig(
    ...     client_id="app",
    ...     client_secret="s3cret",
    ...     token_url="https://login.example/token",
    ...     base_url="https://gateway.example/v1",
    ... )
    >>> gateway.auth_method, gateway.request_timeout
    ('client_secret_post', 30.0)
    >>> "s3cret" in repr(gateway)
    False
    """

    _instead: ClassVar[str] = IN_ANOTHER_PROCESS

    client_id: Annotated[str, text]
    client_secret: Annotated[str | None, text] = field(default=None, repr=False)
    client_secret_file: Annotated[str | None, file_path] = None
    token_url: Annotated[str, url]
    base_url: Annotated[str, url]
    auth_method: Annotated[AuthMethod, one_of(AuthMethod)] = "client_secret_post"

    fallback_auth_method: Annotated[AuthMethod, one_of(AuthMethod)] = "client_secret_basic"
    fallback_token_url: Annotated[str | None, url] = None
    fallback_client_id: Annotated[str | None, text] = None
    fallback_client_secret: Annotated[str | None, text] = field(default=None, repr=False)
    fallback_client_secret_file: Annotated[str | None, file_path] = None

    scope: Annotated[str | None, text] = None
    audience: Annotated[str | None, text] = None
    resource: Annotated[str | None, text] = None
    extra_token_params: Annotated[Mapping[str, str], parameters] = field(factory=dict, repr=False)

    private_key_file: Annotated[str | None, file_path] = None
    private_key_id: Annotated[str | None, text] = None
    assertion_algorithm: Annotated[AssertionAlgorithm, one_of(AssertionAlgorithm)] = "RS256"
    assertion_audience: Annotated[str | None, text] = None

    token_buffer_minutes: Annotated[float, number(0, 60)] = 5.0
    max_retries: Annotated[int, whole(1, 10)] = 3
    request_timeout: Annotated[float, number(0, 300, above=True)] = 30.0
    allow_insecure_http: Annotated[bool, switch] = False
    ca_file: Annotated[str | None, file_path] = None
    default_lifetime_seconds: Annotated[float, number(0, TEN_YEARS, above=True)] = 3600.0

    def _together(self, fit: Mapping[str, Any]) -> Iterator[Problem]:
        secret, secret_file = Ref("client_secret"), Ref("client_secret_file")
        other, other_file = Ref("fallback_client_secret"), Ref("fallback_client_secret_file")
        for one, two in ((secret, secret_file), (other, other_file)):
            if getattr(self, one.field) is not None and getattr(self, two.field) is not None:
                yield one, " and ", two, " are both set: keep one"

        method = fit.get("auth_method")
        if method == "private_key_jwt":
            if self.private_key_file is None:
                yield Ref("private_key_file"), f" is missing: {method} needs it"
        elif method and self.client_secret is None and self.client_secret_file is None:
            yield secret, " or ", secret_file, f" is missing: {method} needs one"

        if fit.get("allow_insecure_http") is False:
            for name in ("token_url", "base_url", "fallback_token_url"):
                if name in fit and not is_safe_transport(fit[name]):
                    yield (
                        Ref(name),
                        f" must be https://{shown(fit[name])}: http:// is for loopback, or needs ",
                        Ref("allow_insecure_http"),
                        " to be true",
                    )


@frozen(kw_only=True)
class ModelConfig(Settings):
    """One model behind the gateway (the variables `LLM_MODELS_<NAME>_*`); None is not sent.

    :ivar model: the id by which the gateway knows it
    :ivar timeout: seconds for one request
    :raises RevosConfigurationError: names every setting that breaks its rule

    >>> ModelConfig(model="gpt-4", temperature=0).temperature
    0.0
    """

    model: Annotated[str, text]
    temperature: Annotated[float | None, number(0, 2)] = None
    max_tokens: Annotated[int | None, whole(1)] = None
    top_p: Annotated[float | None, number(0, 1)] = None
    frequency_penalty: Annotated[float | None, number(-2, 2)] = None
    presence_penalty: Annotated[float | None, number(-2, 2)] = None
    timeout: Annotated[float | None, number(0, above=True)] = None
    description: Annotated[str | None, prose] = None


@frozen(kw_only=True)
class TokenConfig(Settings):
    """When a token is renewed, and when the fallback is tried (the variables `TOKEN_*`).

    :ivar enable_periodic_refresh: without it tokens are fetched on demand only
    :raises RevosConfigurationError: names every setting that breaks its rule

    >>> TokenConfig(enable_fallback=False)  # doctest: +NORMALIZE_WHITESPACE
    TokenConfig(refresh_interval_minutes=45.0, max_failures_before_fallback=1,
                enable_periodic_refresh=True, enable_fallback=False)
    """

    refresh_interval_minutes: Annotated[float, number(0, 1440, above=True)] = 45.0
    max_failures_before_fallback: Annotated[int, whole(1, 10)] = 1
    enable_periodic_refresh: Annotated[bool, switch] = True
    enable_fallback: Annotated[bool, switch] = True


@frozen(kw_only=True)
class LoggingConfig(Settings):
    """What `configure_logging` sets up (the variables `LOG_*`).

    :ivar level: the name of a standard level in upper case, or a number as text
    :ivar file: to write to instead of stderr
    :ivar max_size: bytes of the file before it is rotated; 0 is never
    :ivar backup_count: rotated files that are kept
    :raises RevosConfigurationError: names every setting that breaks its rule

    >>> LoggingConfig(level="debug").level
    'DEBUG'
    """

    level: Annotated[str, log_level] = "INFO"
    format: Annotated[str, log_format] = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    file: Annotated[str | None, file_path] = None
    max_size: Annotated[int, whole(0)] = 10_485_760
    backup_count: Annotated[int, whole(0, 1000)] = 5


def nearest(name: str, among: Iterable[str]) -> str:
    """The one that is most like `name`, for whoever mistyped it."""
    from difflib import SequenceMatcher

    def likeness(other: str) -> float:
        return SequenceMatcher(None, match_key(name), match_key(other)).ratio()

    return max(among, key=likeness)


def name_problems(names: Iterable[str]) -> Iterator[str]:
    """What keeps these from being the names of models side by side."""
    known: dict[str, str] = {}
    for name in names:
        if not name.strip():
            yield "the name of a model must not be empty"
        twin = known.setdefault(match_key(name), name)
        if twin != name:
            yield (
                f"{twin!r} and {name!r} name the same model "
                "(case does not matter, and '-', '_', '.' are alike): keep one"
            )


def _instance_of(kind: type) -> Rule:
    def rule(value: Any) -> object:
        if not isinstance(value, kind):
            raise Unfit(f"must be a {kind.__name__}")
        return value

    return rule


def _models(value: Any) -> Mapping[str, ModelConfig]:
    if not isinstance(value, Mapping) or not all(
        isinstance(name, str) and isinstance(model, ModelConfig) for name, model in value.items()
    ):
        raise Unfit("must be a mapping of names to ModelConfig")
    return MappingProxyType(dict(value))


@frozen(kw_only=True)
class Config(Unpickled, Settings):
    """All that is configured. `load_config` reads one; this is how to write one.

    :raises RevosConfigurationError: names every setting that breaks its rule

    >>> config = Config(
    ...     revos=GatewayConfig(
    ...         client_id="app",
    ...         client_secret="s3cret",
    ...         token_url="https://login.example/token",
    ...         base_url="https://gateway.example/v1",
    ...     ),
    ...     models={"gpt-4": ModelConfig(model="gpt-4-0613")},
    ... )
    >>> config.model("GPT_4").model
    'gpt-4-0613'
    """

    _instead: ClassVar[str] = IN_ANOTHER_PROCESS

    revos: Annotated[GatewayConfig, _instance_of(GatewayConfig)]
    token: Annotated[TokenConfig, _instance_of(TokenConfig)] = field(factory=TokenConfig)
    models: Annotated[Mapping[str, ModelConfig], _models] = field(factory=dict)
    logging: Annotated[LoggingConfig, _instance_of(LoggingConfig)] = field(factory=LoggingConfig)

    def _together(self, fit: Mapping[str, Any]) -> Iterator[Problem]:
        for problem in name_problems(fit.get("models", ())):
            yield Ref("models"), f": {problem}"

    def model(self, name: str) -> ModelConfig:
        """The model of that name, in any of the spellings that `match_key` makes one.

        :raises RevosConfigurationError: there is none; the text has those that there are
        """
        for known, model in self.models.items():
            if match_key(known) == match_key(name):
                return model
        if not self.models:
            raise RevosConfigurationError(f"There is no model {name!r}: none is configured.")
        raise RevosConfigurationError(
            f"There is no model {name!r}. Configured: {', '.join(self.models)}. "
            f"The nearest is {nearest(name, self.models)!r}."
        )
