"""How soon the page of a sweep opens in a browser: ``python -m benchmarks.report``.

It needs the ``playwright`` package and a Chromium. A page is open when all of it is laid out and the plots are painted.
Seconds by the clock depend on what else the machine does; the browser's own seconds of CPU, of its main thread, do not.
"""

import shutil
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.reporting import finish, show_table
from crynux_async.report import SweepView, TrialView, render

SIZES = (24, 200, 1_000)
REPEATS = 5
_START = datetime(2026, 1, 1, tzinfo=UTC)
_SCHEDULERS = ("constant", "cosine", "linear")
_BLOCKS = ("down 0", "down 1", "down 2", "mid", "up 1", "up 2", "up 3")
_PAINTED = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def main() -> None:
    """Measure and print."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        rows = [_measured(browser, Path(folder), size) for size in SIZES]
        browser.close()
    columns = ("trials", "MB", "rendered s", "opened s", "CPU s", "sorted s", "searched s")
    show_table(f"The page of a sweep, median of {REPEATS}", columns, rows)
    names = ("trials", "megabytes", "rendered", "opened", "cpu", "sorted", "searched")
    finish("report", {"rows": [dict(zip(names, row, strict=True)) for row in rows]})


def _measured(browser: Any, folder: Path, size: int) -> tuple[float, ...]:
    began = time.perf_counter()
    text = render(_view(size))
    rendered = time.perf_counter() - began
    path = folder / f"{size}.html"
    path.write_text(text, encoding="utf-8")
    times = [_opened(browser, path) for _ in range(REPEATS)]
    return size, len(text.encode()) / 1e6, rendered, *map(statistics.median, zip(*times, strict=True))


def _opened(browser: Any, path: Path) -> tuple[float, float, float, float]:
    """Return seconds to open a page, its CPU, and seconds to sort its table and to search it."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    began = time.perf_counter()
    page.goto(f"file://{path}")
    page.evaluate(_PAINTED)
    opened = time.perf_counter() - began
    metrics = {metric["name"]: metric["value"] for metric in devtools.send("Performance.getMetrics")["metrics"]}
    began = time.perf_counter()
    page.get_by_role("button", name="‖BA‖").click()
    page.evaluate(_PAINTED)
    sorted_in = time.perf_counter() - began
    began = time.perf_counter()
    page.fill("#search", "cosine")
    page.evaluate(_PAINTED)
    searched = time.perf_counter() - began
    page.close()
    return opened, metrics["TaskDuration"], sorted_in, searched


def _view(size: int) -> SweepView:
    base = {"model_name": "crynux-ai/stable-diffusion-v1-5", "dataset_url": "https://example.com/a.zip", "rank": 4}
    trials = [_trial(number) for number in range(1, size + 1)]
    return SweepView(name="cats", base=base, trials=trials, objective_name="distance", written_at=_START)


def _trial(number: int) -> TrialView:
    rank, rate = 4 << number % 4, 1e-5 * (1 + number * 37 % 100)
    norm = 1e4 * rate * rank**0.5
    return TrialView(
        number=number,
        label=f"rank={rank} learning_rate={rate:.6g}",
        state="done",
        params={"rank": rank, "learning_rate": rate, "lr_scheduler": _SCHEDULERS[number % 3]},
        job_id=f"j{number:032x}",
        task_id=str(number),
        objective=abs(norm - 1),
        norm=norm,
        blocks={block: norm / (place + 2) for place, block in enumerate(_BLOCKS)},
        verdict="usual",
        cost_cnx=15.0,
        sent_at=_START + timedelta(minutes=number),
        noticed_at=_START + timedelta(minutes=number + 20 + number % 20),
        stored_at=_START + timedelta(minutes=number + 42),
        archive=f"/models/{number}.zip",
    )


if __name__ == "__main__":
    main()
