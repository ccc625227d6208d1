"""The page in a real browser: plots are drawn, tables sort and filter, and nothing is asked of anybody."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crynux_async.report import render
from tests.browser import needs_browser, opened_browser, opened_page
from tests.report.views import failed, picture, trial, view

pytestmark = [needs_browser, pytest.mark.real_time]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened_browser() as running:
        yield running


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    trials = [trial(number, images=[picture(number)]) for number in range(1, 10)]
    (tmp_path / "sweep.html").write_text(render(view(*trials, failed(10))), encoding="utf-8")
    with opened_page(browser, f"file://{tmp_path}/sweep.html", viewport={"width": 1440, "height": 900}) as opened:
        yield opened


def numbers(page: Any) -> list[int]:
    """Return the numbers of the rows that are seen, from above."""
    rows = page.locator("#trials tbody tr[data-trial]:visible td:first-child").all_text_contents()
    return [int(row) for row in rows]


def test_headings_sort_both_ways(page: Any) -> None:
    page.get_by_role("button", name="‖BA‖").click()
    assert numbers(page) == [*range(1, 10), 10]  # what has no value comes last
    page.get_by_role("button", name="‖BA‖").click()
    assert numbers(page) == [*range(9, 0, -1), 10]
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("‖BA‖")


def test_search_and_filter_keep_what_fits(page: Any) -> None:
    page.get_by_label("Search the trials").fill("constant")
    assert numbers(page) == [2, 4, 6, 8, 10]
    page.get_by_label("Show only trials that are").select_option("failed")
    assert numbers(page) == [10]
    assert page.locator("#count").inner_text() == "1 of 10"


def test_plots_are_drawn_and_a_brushed_axis_filters_the_table(page: Any) -> None:
    assert page.locator("#parallel svg path").count() > 9
    assert page.locator("#effects svg").count() == 2
    axis = page.locator("#parallel svg text", has_text="rank").first.bounding_box()
    middle = axis["x"] + axis["width"] / 2
    plot = page.locator("#parallel").bounding_box()
    page.mouse.move(middle, plot["y"] + 60)
    page.mouse.down()
    page.mouse.move(middle, plot["y"] + plot["height"] / 2, steps=8)
    page.mouse.up()
    assert 0 < len(numbers(page)) < 9


def test_row_under_the_pointer_is_lit_wherever_it_stands(page: Any) -> None:
    page.locator(".heat tr[data-trial='3']").hover()
    assert page.locator("#trials tr[data-trial='3'].lit").count() == 1
    assert page.locator(".pictures button[data-trial='3'].lit").count() == 1
    assert page.locator("#trials tr.lit").count() == 1


def test_picture_opens_large_and_closes_by_key(page: Any) -> None:
    page.get_by_role("img", name="Picture of trial 3").click()
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()


def test_trial_opens_its_job_which_is_sorted_and_searched_with_it(page: Any) -> None:
    button = page.locator("tr[data-trial='10'] button.job")
    button.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    job = page.locator("#trials tr.detail")
    assert "the network gave up after four attempts" in job.inner_text()
    assert "2026-11-28 09:10:00 UTC" in job.inner_text()  # when it was sent, ten minutes after the start
    page.get_by_role("button", name="‖BA‖").click()
    page.get_by_role("button", name="‖BA‖").click()
    assert page.locator("tr[data-trial='10'] + tr.detail").count() == 1
    page.get_by_label("Search the trials").fill("j00000000000000000000000000000003")
    assert not job.is_visible()
    assert numbers(page) == [3]
    page.get_by_label("Search the trials").fill("")
    button.press("Enter")
    assert job.count() == 0


def test_keyboard_reaches_the_table_first(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the table of trials"


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_does_not_scroll_sideways(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    (tmp_path / "sweep.html").write_text(render(view(*(trial(n) for n in range(1, 30)))), encoding="utf-8")
    size = {"width": width, "height": 900}
    with opened_page(browser, f"file://{tmp_path}/sweep.html", viewport=size, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.fixture(scope="module")
def thousand(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("thousand") / "sweep.html"
    trials = [trial(number, params={"rank": number % 7, "seed": number}) for number in range(1, 1000)]
    path.write_text(render(view(*trials, failed(1000, params={"rank": 3, "seed": 1000}))), encoding="utf-8")
    with opened_page(browser, f"file://{path}", viewport={"width": 1440, "height": 900}) as opened:
        yield opened


def test_thousand_trials_sort_filter_and_open(thousand: Any) -> None:
    thousand.get_by_role("button", name="‖BA‖").click()
    assert numbers(thousand) == list(range(1, 1001))  # the one without a model comes last
    thousand.get_by_label("Show only trials that are").select_option("failed")
    assert numbers(thousand) == [1000]
    thousand.locator("tr[data-trial='1000'] button.job").click()
    assert "four attempts" in thousand.locator("#trials tr.detail").inner_text()
    thousand.get_by_label("Show only trials that are").select_option("")
    assert thousand.locator("#count").inner_text() == "1000 of 1000"


def test_plots_of_a_thousand_trials_are_drawn_and_brushed(thousand: Any) -> None:
    drawn = """[...document.querySelectorAll(".plot")].map((plot) => {
        const canvas = plot.querySelector("canvas");
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return pixels.some((byte) => byte > 0);
    })"""
    assert thousand.evaluate(drawn) == [True] * 4  # parallel, one for each of two parameters, when
    thousand.locator("#parallel").scroll_into_view_if_needed()
    plot = thousand.locator("#parallel").bounding_box()
    thousand.mouse.move(plot["x"] + 50, plot["y"] + 60)  # the first axis stands 50 px from the left
    thousand.mouse.down()
    thousand.mouse.move(plot["x"] + 50, plot["y"] + plot["height"] / 2, steps=8)
    thousand.mouse.up()
    assert 0 < len(numbers(thousand)) < 999


def test_page_is_whole_without_scripts(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "sweep.html").write_text(render(view(trial(1), failed(2))), encoding="utf-8")
    with opened_page(browser, f"file://{tmp_path}/sweep.html", java_script_enabled=False) as page:
        assert page.locator("#trials tbody tr").count() == 2
        assert not page.locator(".tools").is_visible()
