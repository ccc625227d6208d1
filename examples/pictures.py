"""The pictures of the README: ``python examples/pictures.py docs/pictures``.

Runs the commands that the README shows, on the emulator, and keeps what a terminal shows at their end; Chromium
(``CHROMIUM``, or on the path) takes the page of the sweep. It needs ``pip install '.[all]'``, and a minute.
"""

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 100
EXAMPLES = Path(__file__).resolve().parent
CRYNUX = [sys.executable, "-m", "crynux_async.cli"]
SWEEP = ["sweep", "run", "sweep.toml", "--emulator", "--yes", "--report", "sweep.html"]
COMMANDS = {
    "demo": ("crynux-async demo", ["demo"]),
    "check": ("crynux-async check job.toml --set rank=2000", ["check", "job.toml", "--set", "rank=2000"]),
    "sweep": ("crynux-async sweep run sweep.toml --emulator --report sweep.html", SWEEP),
}
JOB = """model_name = "crynux-ai/stable-diffusion-v1-5"
dataset_url = "https://example.com/cats.zip"
max_train_steps = 200
timeout = 1800
"""


def screen(written: str) -> str:
    """Return what is on the screen at the end of what was written, of which a live board writes lines anew."""
    lines: list[str] = []
    for part in written.replace("\r\n", "\n").split("\n"):
        del lines[len(lines) - part.count("\x1b[1A") :]
        lines.append(part.rsplit("\x1b[2K", 1)[-1])
    return "\n".join(lines).strip("\n")


def picture(title: str, text: str, path: Path) -> None:
    """Draw a terminal's text as an SVG."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(Text.from_ansi(text))
    console.save_svg(str(path), title=title)


def photograph(page: Path, path: Path) -> None:
    """Let Chromium take the top of a page as a PNG."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or "chromium"
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1000,700"]
    subprocess.run([chromium, *options, f"--screenshot={path}", page.as_uri()], check=True, capture_output=True)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        place = Path(home)
        (place / "job.toml").write_text(JOB)
        shutil.copy(EXAMPLES / "sweep.toml", place)  # its models go beside it
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CRYNUX_")}
        environment |= {"HOME": home, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH)}
        for name, (title, words) in COMMANDS.items():
            done = subprocess.run([*CRYNUX, *words], cwd=place, env=environment, check=False, capture_output=True)
            picture(title, screen((done.stdout + done.stderr).decode()).replace(home, "~"), folder / f"{name}.svg")
        photograph(place / "crynux-demo" / "report.html", folder / "report.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
