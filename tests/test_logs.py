"""The `revos` logger, as configured."""

import logging
from logging.handlers import RotatingFileHandler

import pytest

from revos.config import Config, GatewayConfig, LoggingConfig
from revos.errors import RevosConfigurationError
from revos.logs import configure_logging

GATEWAY = GatewayConfig(
    client_id="app",
    client_secret="s3cret",
    token_url="https://login.example/token",
    base_url="https://gateway.example/v1",
)


@pytest.fixture(autouse=True)
def logger():
    logger = logging.getLogger("revos")
    before = (logger.handlers[:], logger.level)
    logger.handlers.clear()
    yield logger
    for handler in logger.handlers:
        handler.close()
    logger.handlers[:], _ = before
    logger.setLevel(before[1])


def configured(**settings):
    return Config(revos=GATEWAY, logging=LoggingConfig(**settings))


def test_records_go_to_stderr_in_the_format(capsys):
    configure_logging(configured(level="info", format="%(name)s|%(levelname)s|%(message)s"))

    logging.getLogger("revos.manager").info("hello")
    logging.getLogger("revos.manager").debug("too much")

    assert capsys.readouterr().err == "revos.manager|INFO|hello\n"


def test_a_second_call_replaces_the_first(capsys, logger):
    configure_logging(configured(format="first %(message)s"))
    configure_logging(configured(format="second %(message)s", level="15"))

    logger.log(15, "hello")

    assert capsys.readouterr().err == "second hello\n"


def test_records_go_to_the_file_and_it_is_rotated(tmp_path, logger, capsys):
    file = tmp_path / "revos.log"
    configure_logging(configured(file=file, max_size=20, backup_count=1, format="%(message)s"))

    for word in ("first é", "second second", "third third"):
        logger.info(word)

    assert file.read_text(encoding="utf-8") == "third third\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["revos.log", "revos.log.1"]
    assert capsys.readouterr().err == ""


def test_a_file_is_closed_when_another_takes_its_place(tmp_path, logger):
    configure_logging(configured(file=tmp_path / "one.log"))
    (first,) = logger.handlers
    configure_logging(configured(file=tmp_path / "two.log"))

    (second,) = logger.handlers
    assert isinstance(second, RotatingFileHandler)
    assert second.encoding == "utf-8"  # Whatever the locale has.
    assert first.stream is None


def test_handlers_of_others_stay(logger):
    theirs = logging.NullHandler()
    logger.addHandler(theirs)

    configure_logging(configured())
    configure_logging(configured())

    assert theirs in logger.handlers
    assert len(logger.handlers) == 2


def test_a_file_that_cannot_be_opened_changes_nothing(tmp_path, logger):
    configure_logging(configured(level="ERROR"))
    before = logger.handlers[:]

    with pytest.raises(RevosConfigurationError, match="cannot be opened: No such file") as caught:
        configure_logging(configured(file=tmp_path / "nowhere" / "revos.log"))

    assert (logger.handlers, logger.level) == (before, logging.ERROR)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
