"""Short-lived OAuth 2.0 tokens for LLM gateways, kept fresh, and typed objects from text.

async with TokenManager(config) as tm, tm.extractor("gpt-4") as gpt4:
    person = await gpt4.extract(Person, "Extract the person: {text}", text=...)
"""

from typing import TYPE_CHECKING, Any

from revos.ambient import (
    get_consecutive_failures,
    get_langchain_extractor,
    get_revos_token,
    get_token_info,
    invalidate_revos_token,
    list_remote_models,
    reset_token_manager,
)
from revos.auth import BearerAuth
from revos.broadcast import TokenStream
from revos.config import Config, GatewayConfig, LoggingConfig, ModelConfig, TokenConfig
from revos.errors import (
    RevosAPIError,
    RevosAuthenticationError,
    RevosClosedError,
    RevosConfigurationError,
    RevosError,
    RevosInputError,
    RevosTokenError,
    RevosValidationError,
)
from revos.extraction.extractor import LangChainExtractor
from revos.loading import create_config_with_prefixes, load_config
from revos.logs import configure_logging
from revos.manager import TokenManager
from revos.status import Health, TokenStatus
from revos.token import AccessToken

if TYPE_CHECKING:
    from revos.extraction.answers import Extraction, Usage

__all__ = [
    "AccessToken",
    "BearerAuth",
    "Config",
    "Extraction",
    "GatewayConfig",
    "Health",
    "LangChainExtractor",
    "LoggingConfig",
    "ModelConfig",
    "RevosAPIError",
    "RevosAuthenticationError",
    "RevosClosedError",
    "RevosConfigurationError",
    "RevosError",
    "RevosInputError",
    "RevosTokenError",
    "RevosValidationError",
    "TokenConfig",
    "TokenManager",
    "TokenStatus",
    "TokenStream",
    "Usage",
    "configure_logging",
    "create_config_with_prefixes",
    "get_consecutive_failures",
    "get_langchain_extractor",
    "get_revos_token",
    "get_token_info",
    "invalidate_revos_token",
    "list_remote_models",
    "load_config",
    "reset_token_manager",
]


def __getattr__(name: str) -> Any:
    # Not needed before the first extractor is, and a few milliseconds of each start.
    if name in ("Extraction", "Usage"):
        from revos.extraction import answers

        return getattr(answers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
