"""The list of all commands, as ``--help`` shows it.

Drawn here from what the list says, as cyclopts draws the help of a single command: that would read every line as the
docstring of a function, in each of four styles of them, and lay it out three times.
"""

from collections.abc import Iterator, Sequence

from rich.box import ROUNDED
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

_GAP = "  "
_NAME_STYLE = "cyan"
_FRAME_WIDTH = 4  # its lines, and a space beside each


def print_commands(
    console: Console, *, usage: str, about: str, commands: Sequence[tuple[str, str]], after: str
) -> None:
    """Print how the program is called, and what it can do.

    Args:
        console: Where.
        usage: How it is called.
        about: What it is.
        commands: What each is called and what it does, in the order in which they are shown.
        after: What is told below them.
    """
    console.print(Text.assemble(("Usage: ", "bold"), (usage, "bold")))
    console.print()
    console.print(Text(f"{about}\n"))
    names = max(len(name) for name, _ in commands)
    lines = list(_lines(console, commands, names))
    console.print(Panel(Text("\n").join(lines), title="Commands", title_align="left", box=ROUNDED))
    console.print()
    console.print(Text(after))


def _lines(console: Console, commands: Sequence[tuple[str, str]], names: int) -> Iterator[Text]:
    room = console.width - _FRAME_WIDTH - names - len(_GAP)
    for name, said in commands:
        beside = [(name.ljust(names), _NAME_STYLE), (_GAP, _NAME_STYLE)]
        for line in Text(said).wrap(console, max(room, 1), overflow="fold"):
            yield Text.assemble(*beside, line)
            beside = [(" " * (names + len(_GAP)), _NAME_STYLE)]
