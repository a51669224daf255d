"""The functions that use the manager around them, or the one passed as `manager=`.

Child tasks and worker threads of AnyIO inherit the manager; a plain thread passes it.
"""

from __future__ import annotations

from revos import scope
from revos.config import Config
from revos.errors import RevosConfigurationError
from revos.extraction import LangChainExtractor
from revos.manager import TokenManager

__all__ = [
    "get_consecutive_failures",
    "get_langchain_extractor",
    "get_revos_token",
    "get_token_info",
    "invalidate_revos_token",
    "list_remote_models",
    "reset_token_manager",
]


def open_manager(manager: TokenManager | None, function: str) -> TokenManager:
    """The one that is passed, else the innermost one that is open.

    :raises RevosConfigurationError: there is none; the text says what to do
    """
    found = manager if manager is not None else scope.innermost()
    if found is None:
        raise RevosConfigurationError(
            f"{function} found no open TokenManager around it: call it inside "
            "`async with TokenManager(...)`, or pass manager=... (a plain thread inherits none)"
        )
    return found


async def get_revos_token(
    force_refresh: bool = False,
    use_fallback: bool = False,
    *,
    manager: TokenManager | None = None,
) -> str:
    """A usable token, as `TokenManager.get_token`.

    With no manager open, one is opened from the environment for this one call.

    :param force_refresh: a new one in any case
    :param use_fallback: where a token is needed or forced, get it the second way only
    :raises RevosTokenError: none can be had
    :raises RevosConfigurationError: the environment configures none, or there is no fallback
    """
    found = manager if manager is not None else scope.innermost()
    if found is not None:
        return await found.get_token(force_refresh=force_refresh, use_fallback=use_fallback)
    async with TokenManager() as own:
        return await own.get_token(use_fallback=use_fallback)


def get_token_info(*, manager: TokenManager | None = None) -> dict[str, object]:
    """The facts of `TokenStatus` as a dict that `json.dumps` takes; never the token.

    :raises RevosConfigurationError: no manager is open
    """
    return open_manager(manager, "get_token_info()").status.as_dict()


def get_consecutive_failures(*, manager: TokenManager | None = None) -> int:
    """Failed cycles since the last success.

    :raises RevosConfigurationError: no manager is open
    """
    return open_manager(manager, "get_consecutive_failures()").consecutive_failures


def invalidate_revos_token(*, manager: TokenManager | None = None) -> None:
    """Drop the held token.

    :raises RevosConfigurationError: no manager is open
    """
    open_manager(manager, "invalidate_revos_token()").invalidate()


def reset_token_manager(*, manager: TokenManager | None = None) -> None:
    """Drop the held token, the counts and the pauses.

    :raises RevosConfigurationError: no manager is open
    """
    open_manager(manager, "reset_token_manager()").reset()


def get_langchain_extractor(
    model_name: str,
    settings_instance: Config | None = None,
    *,
    manager: TokenManager | None = None,
) -> LangChainExtractor:
    """An extractor for a configured model, for `async with` or for direct use.

    Used directly it binds at its first use to `manager`, or to the one that is open then, and lives
    as long as that. So it may be made before its manager opens.

    :param settings_instance: a configuration whose models are used in place of the manager's
    """
    return LangChainExtractor(model_name, manager=manager, settings=settings_instance)


async def list_remote_models(*, manager: TokenManager | None = None) -> list[str]:
    """The model ids that the gateway accepts (`GET {base_url}/models`).

    :raises RevosConfigurationError: no manager is open
    :raises RevosAPIError: the gateway refused
    """
    return await open_manager(manager, "list_remote_models()").list_models()
