"""Logging: silent unless it is asked for, and never twice."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from crynux_async.log import log_to_stderr

LOGGER = logging.getLogger("crynux_async")


@pytest.fixture(autouse=True)
def _logger_as_before() -> Iterator[None]:
    handlers, level = LOGGER.handlers[:], LOGGER.level
    yield
    LOGGER.handlers[:] = handlers
    LOGGER.setLevel(level)


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def run_python(code: str, **environ: str) -> str:
    """Run code in a fresh interpreter and return its standard error."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CRYNUX_")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env={**clean, **environ}, capture_output=True, text=True, check=True).stderr


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["DEBUG", "INFO", "WARNING", "ERROR"]),
        (" Info ", ["INFO", "WARNING", "ERROR"]),
        ("WARNING", ["WARNING", "ERROR"]),
        ("error", ["ERROR"]),
        ("1", ["INFO", "WARNING", "ERROR"]),
    ],
)
def test_log_at_a_level_shows_that_and_above(level: str, shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr(level)
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger("crynux_async.part").log(number, "something")
    lines = lines_of(capsys)
    assert [line.split()[2] for line in lines] == shown
    assert all(line.endswith("crynux_async.part: something") for line in lines)


def test_log_asked_for_twice_writes_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("error")
    log_to_stderr("debug")
    LOGGER.debug("something")
    assert len(lines_of(capsys)) == 1


def test_log_of_other_libraries_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("debug")
    logging.getLogger("another").info("something")
    assert lines_of(capsys) == []


LOG_SOMETHING = "import crynux_async, logging; logging.getLogger('crynux_async.part').error('something')"


def test_library_that_nobody_asked_logs_nothing() -> None:
    assert run_python(LOG_SOMETHING) == ""


def test_variable_in_the_environment_turns_the_log_on() -> None:
    assert "ERROR   crynux_async.part: something" in run_python(LOG_SOMETHING, CRYNUX_LOG="debug")


def test_empty_variable_in_the_environment_leaves_the_log_off() -> None:
    assert run_python(LOG_SOMETHING, CRYNUX_LOG="") == ""
