"""The `revos` logger, set up as configured. An import changes nothing; a call does."""

import logging

from revos.config import Config, LoggingConfig
from revos.errors import RevosConfigurationError

__all__ = ["configure_logging"]

_OURS = "revos.configure_logging"


def configure_logging(config: Config) -> None:
    """Send what revos logs to stderr, or to `config.logging.file`, which is rotated.

    A second call replaces what the first one set up. Handlers of others stay, those of the root
    logger too: where it has any, they go on getting these records as well.

    :raises RevosConfigurationError: the file cannot be opened; then nothing has changed

    >>> from revos.config import GatewayConfig
    >>> gateway = GatewayConfig(
    ...     client_id="app",
    ...     client_secret="s3cret",
    ...     token_url="https://login.example/token",
    ...     base_url="https://gateway.example/v1",
    ... )
    >>> configure_logging(Config(revos=gateway, logging=LoggingConfig(level="DEBUG")))
    >>> logger = logging.getLogger("revos")
    >>> logging.getLevelName(logger.level), len(logger.handlers)
    ('DEBUG', 1)
    >>> logger.setLevel(logging.NOTSET)
    >>> logger.handlers.clear()
    """
    handler = _handler(config.logging)
    handler.set_name(_OURS)
    handler.setFormatter(logging.Formatter(config.logging.format))

    logger = logging.getLogger("revos")
    for old in [known for known in logger.handlers if known.get_name() == _OURS]:
        logger.removeHandler(old)
        old.close()
    logger.addHandler(handler)
    level = config.logging.level
    logger.setLevel(int(level) if level.isdecimal() else level)


def _handler(config: LoggingConfig) -> logging.Handler:
    if config.file is None:
        return logging.StreamHandler()
    from logging.handlers import RotatingFileHandler

    try:
        return RotatingFileHandler(
            config.file,
            maxBytes=config.max_size,
            backupCount=config.backup_count,
            encoding="utf-8",
        )
    except OSError as error:
        raise RevosConfigurationError(
            f"The log file {config.file} cannot be opened: {error.strerror}"
        ) from error
