"""The board in a real browser: it goes on by itself through everything, asks nobody else, and is for everybody."""

import itertools
import re
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from crynux_async.ledgers.base import JobRow
from crynux_async.report.board import TROUBLED
from crynux_async.states import JobState
from crynux_async.training.config import FineTuneConfig
from tests.browser import needs_browser, opened_browser, opened_page
from tests.integrations.web_lab import GOOD
from tests.integrations.web_site import Site, emulated_bridge, site_of
from tests.report.views import picture
from tests.small_results import make_archive

pytestmark = [needs_browser, pytest.mark.real_time]

LONG = 120_000  # milliseconds: machines that run tests are busy
WIDE = {"width": 1440, "height": 900}
LOST = "ERR_"  # what a browser logs of a server that is away


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened_browser() as running:
        yield running


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with emulated_bridge(speed=60) as bridge, site_of(tmp_path, bridge) as prepared:
        prepared.start()
        yield prepared


def row_of(page: Any, label: str) -> Any:
    return page.locator("table.list tr", has=page.get_by_role("link", name=label, exact=True))


def wait_for(row: Any, text: str) -> None:
    row.filter(has_text=text).wait_for(timeout=LONG)


def test_board_follows_a_training_to_its_archive_in_two_tabs(browser: Any, site: Site, tmp_path: Path) -> None:
    board = f"{site.url}/board"
    with (
        opened_page(browser, board, server=site.url, viewport=WIDE) as page,
        opened_page(browser, board, server=site.url, viewport=WIDE) as other,
    ):
        page.evaluate("window.isTheSame = true")
        assert page.get_by_text("No job yet").is_visible()
        site.submit("portraits")
        for tab in (page, other):
            row_of(tab, "portraits").wait_for(timeout=LONG)
        page.reload()  # in the middle
        page.evaluate("window.isTheSame = true")
        for tab in (page, other):
            wait_for(row_of(tab, "portraits"), "downloaded")
        assert page.evaluate("window.isTheSame")
        row_of(page, "portraits").get_by_role("link", name="portraits").click()
        assert page.get_by_role("heading", name="The model").is_visible()
        for link, ending in (("The archive as it came", ".zip"), ("One file for ComfyUI", ".comfyui.safetensors")):
            with page.expect_download(timeout=LONG) as download:
                page.get_by_role("link", name=link).click()
            assert download.value.suggested_filename.endswith(ending)
            download.value.save_as(tmp_path / f"got{ending}")
    with zipfile.ZipFile(tmp_path / "got.zip") as archive:
        assert "pytorch_lora_weights.safetensors" in archive.namelist()


def test_page_comes_back_by_itself_when_its_server_was_restarted(browser: Any, site: Site) -> None:
    with opened_page(browser, f"{site.url}/board", server=site.url, passes_over=LOST, viewport=WIDE) as page:
        page.evaluate("window.isTheSame = true")
        page.locator("#live", has_text="live").wait_for(timeout=LONG)
        site.submit("before")
        row_of(page, "before").wait_for(timeout=LONG)
        site.stop()
        page.locator("#live", has_text="reconnecting").wait_for(timeout=LONG)
        site.start()
        site.submit("after")
        row_of(page, "after").wait_for(timeout=LONG)
        wait_for(row_of(page, "before"), "downloaded")
        assert page.locator("#live").inner_text() == "live"
        assert page.evaluate("window.isTheSame")


def test_sweep_goes_on_with_its_plots_and_keeps_what_its_reader_has_chosen(browser: Any, site: Site) -> None:
    for rank in (4, 8):
        site.submit(f"rank {rank}", rank=rank)
    sweep = f"{site.url}/board/sweep?name=cats"
    with opened_page(browser, sweep, server=site.url, viewport=WIDE) as page:
        page.locator("#trials tr.done").nth(1).wait_for(timeout=LONG)
        page.locator("#effects svg").first.wait_for(timeout=LONG)
        page.get_by_label("Search the trials").fill("j")
        page.get_by_role("button", name="‖BA‖").click()
        site.submit("rank 16", rank=16)
        page.locator("#trials tr.done").nth(2).wait_for(timeout=LONG)
        assert page.get_by_label("Search the trials").input_value() == "j"
        assert page.locator("th[aria-sort=ascending]").inner_text().startswith("‖BA‖")
        assert page.locator("#count").inner_text() == "3 of 3"
        page.locator("#parallel svg").wait_for(timeout=LONG)


def rows_of_every_kind() -> list[JobRow]:
    """Return a thousand jobs: of every state some, the newest last."""
    began = datetime(2026, 11, 28, tzinfo=UTC)
    states = [*JobState, *[JobState.DOWNLOADED] * 20]
    rows = []
    for number in range(1000):
        state, planned_at = states[number % len(states)], began + timedelta(minutes=number)
        is_sent = state not in (JobState.PLANNED, JobState.UNCONFIRMED, JobState.REJECTED)
        rows.append(
            JobRow(
                job_id=f"j{number:032x}",
                backend="",
                key_id="another-key",  # so that no session of the test's sends or follows them
                config=FineTuneConfig(**GOOD).evolve(rank=4 + number % 3, lr_scheduler="cosine", lr_warmup_steps=10),
                label=f"job {number}",
                tags={"sweep": "cats"} if number >= 980 else {},
                group="cats" if number >= 980 else "",
                state=state,
                task_id=str(50_000 + number) if is_sent else None,
                planned_at=planned_at,
                submitted_at=planned_at + timedelta(seconds=30) if is_sent else None,
                ended_at=planned_at + timedelta(minutes=30) if is_sent else None,
                reason="CUDA out of memory" if state is JobState.FAILED and number % 2 else "",
                error="said by nobody" if state is JobState.PLANNED else "",
            )
        )
    return rows


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with a thousand jobs, the newest of which has a model with a picture."""
    folder = tmp_path_factory.mktemp("full")
    with emulated_bridge(speed=60) as bridge, site_of(folder, bridge) as site:
        archive = folder / "999.zip"
        archive.write_bytes(make_archive())
        (folder / "999.zip-0.png").write_bytes(picture())
        *others, last = rows_of_every_kind()
        model = {"state": JobState.DOWNLOADED, "path": str(archive), "total_bytes": archive.stat().st_size}
        site.add([*others, attrs.evolve(last, **model)])
        site.start()
        yield site


LAST = f"/board/jobs/j{999:032x}"
FAILED = "/board/jobs/" + next(
    row.job_id for row in reversed(rows_of_every_kind()) if row.state is JobState.FAILED and row.reason
)


@pytest.mark.parametrize(
    "path", ["/board", LAST, FAILED, "/board/sweep?name=cats", "/board?show=waiting&search=nothing"]
)
def test_page_is_accessible_and_does_not_scroll_sideways(browser: Any, full: Site, path: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with opened_page(browser, f"{full.url}{path}", server=full.url, viewport=WIDE, reduced_motion="reduce") as page:
        page.locator("#live", has_text="live").wait_for(timeout=LONG)
        for width, scheme in itertools.product((1440, 390), ("light", "dark")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            # Another scheme has other colours, and nothing else.
            rules = {"runOnly": ["color-contrast"]} if scheme == "dark" else {}
            found = axe.run(page, options={"resultTypes": ["violations"], **rules}).response["violations"]
            shown = [(each["id"], [node["html"] for node in each["nodes"]]) for each in found]
            assert shown == [], (width, scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, scheme


def test_no_word_beside_a_link_is_broken_on_a_small_phone(browser: Any, full: Site) -> None:
    with opened_page(browser, f"{full.url}{LAST}", server=full.url, viewport={"width": 360, "height": 740}) as page:
        said = page.locator(".files .small", has_text=".safetensors")
        assert said.count() > 1
        lines = said.evaluate_all(
            "found => found.map(each => { const text = document.createRange(); text.selectNodeContents(each);"
            " return text.getClientRects().length })"
        )
        assert set(lines) == {1}


def test_thousand_jobs_are_paged_filtered_and_searched(browser: Any, full: Site) -> None:
    with opened_page(browser, f"{full.url}/board", server=full.url, viewport=WIDE) as page:
        assert page.locator("table.list tbody tr").count() == 50
        assert page.locator("table.list tbody tr").first.inner_text().startswith("job 999")
        page.get_by_role("link", name="Older").click()
        assert page.locator("table.list tbody tr").first.inner_text().startswith("job 949")
        page.get_by_role("link", name="trouble", exact=True).click()
        states = {re.sub(r"^\W+", "", text) for text in page.locator("table.list .state").all_inner_texts()}
        # The site's own session may have found out more of those that were stalled.
        assert {"failed", "rejected", "expired"} <= states <= {state.value for state in TROUBLED}
        page.get_by_label("Search the jobs").fill("job 99")
        page.get_by_label("Search the jobs").press("Enter")
        page.get_by_role("link", name="all", exact=True).click()
        assert page.locator("table.list tbody tr").count() == 11  # 99 and 990 to 999


def test_keyboard_goes_from_the_skip_link_to_a_job_and_back(browser: Any, full: Site) -> None:
    focused = "document.activeElement.textContent"
    with opened_page(browser, f"{full.url}/board?search=job+999", server=full.url, viewport=WIDE) as page:
        page.keyboard.press("Tab")
        assert page.evaluate(focused) == "Skip to the content"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.querySelector('main').contains(document.activeElement)")
        page.locator("table.list a.job").focus()
        page.keyboard.press("Enter")
        assert page.get_by_role("heading", level=1).inner_text() == "job 999"
        page.locator("nav a", has_text="Jobs").focus()
        page.keyboard.press("Enter")
        assert page.get_by_role("heading", level=1).inner_text() == "Jobs"


def test_page_is_whole_and_says_so_where_scripts_do_not_run(browser: Any, full: Site) -> None:
    with opened_page(browser, f"{full.url}{LAST}", server=full.url, java_script_enabled=False) as page:
        assert page.get_by_role("img", name=re.compile("Learning rate, cosine")).count() == 1
        assert page.get_by_role("img", name="Validation picture 1").count() == 1
        assert page.locator("noscript p").is_visible()
