"""A question is answered, left unanswered, or interrupted."""

import asyncio
import io
import os
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

import pytest
from rich.console import Console

from crynux_async.cli.questions import agrees

pytestmark = pytest.mark.real_time


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """Yield what is typed into, with standard input at its other end."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin, os.fdopen(writing, "w") as typed:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield typed


@pytest.mark.parametrize(("typed", "agreed"), [("y\n", True), (" YES \n", True), ("n\n", False), ("\n", False)])
async def test_only_yes_agrees(keyboard: TextIO, typed: str, agreed: bool) -> None:
    keyboard.write(typed)
    keyboard.flush()
    screen = io.StringIO()
    assert await agrees(Console(file=screen), "Send 3?") is agreed
    assert screen.getvalue() == "Send 3? [y/N] "


async def test_no_answer_at_all_is_a_no(keyboard: TextIO) -> None:
    keyboard.close()
    assert await agrees(Console(file=io.StringIO()), "Send 3?") is False


async def test_question_that_is_interrupted_leaves_nobody_who_reads(keyboard: TextIO) -> None:
    threads = threading.active_count()
    screen = io.StringIO()
    asked = asyncio.create_task(agrees(Console(file=screen), "Send 3?"))
    while not screen.getvalue():
        await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert threading.active_count() == threads
