"""Questions to whoever sits at the terminal."""

import asyncio
import sys
from typing import TextIO

from rich.console import Console
from rich.text import Text


async def agrees(console: Console, question: str) -> bool:
    """Ask a question, and return whether the answer is yes; no answer at all (Ctrl-D) is a no.

    Args:
        console: Where to ask.
        question: What to ask, with its question mark.
    """
    console.print(Text(f"{question} [y/N] "), end="")
    await _readable(sys.stdin)
    answer = await asyncio.to_thread(sys.stdin.readline)
    if not answer:
        console.print()  # what follows shall not stand behind the question
    return answer.strip().lower() in ("y", "yes")


async def _readable(stream: TextIO) -> None:
    """Wait until something can be read: a thread that reads cannot be stopped, and held the command after Ctrl-C."""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    try:
        loop.add_reader(stream, came.set)
    except (NotImplementedError, OSError, ValueError):  # Windows has no such thing, and a file lets nobody wait
        return
    try:
        await came.wait()
    finally:
        loop.remove_reader(stream)
