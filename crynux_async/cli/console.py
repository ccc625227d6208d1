"""Where commands print, so that every text comes out as it is: paths, labels, answers of servers, names of files.

The one place that makes a console. What comes from outside may hold "[red]", ":bomb:", or an escape sequence that
recolours a terminal, clears it or rewrites what stands in it: none of these is obeyed here.
"""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.text import Text

from crynux_async.cli.plain import Part, spelt

_NO_WIDTH = 100_000


class LiteralConsole(Console):
    """Prints texts literally, each line in one piece: no markup, no codes for emoji, controls spelt out.

    Args:
        stderr: Whether it prints on standard error.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def print_line(self, *parts: Part) -> None:
        """Print a line."""
        self.print(Text.assemble(*parts))

    def print_page(self, page: RenderableType, *, style: str | None = None) -> None:
        """Print text for people, its words wrapped; off a terminal no word is broken, such as a long path.

        Args:
            page: What to print.
            style: In which style.
        """
        usual = self.width
        if not self.is_terminal:
            # As wide as its longest word: a path that was broken in two cannot be copied.
            self.width = max(usual, Measurement.get(self, self.options.update(max_width=_NO_WIDTH), page).minimum)
        try:
            self.print(page, style=style, soft_wrap=False)
        finally:
            self.width = usual

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render something, with every control spelt out that rich itself has not made."""
        return (_spelt(segment) for segment in super().render(renderable, options))


def open_console(*, stderr: bool = False) -> LiteralConsole:
    """Return a console for what a command says.

    Args:
        stderr: Whether it goes to standard error, because standard output belongs to a program.
    """
    return LiteralConsole(stderr=stderr)


def _spelt(segment: Segment) -> Segment:
    text = segment.text if segment.control else spelt(segment.text)
    return segment if text == segment.text else Segment(text, segment.style)
