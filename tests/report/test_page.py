"""A page is one file: nothing runs or is loaded that was not put there, and nothing is lost without a script."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from crynux_async.report import render
from crynux_async.report.page import heat_rows, picture_grid
from tests.report.views import failed, picture, trial, view

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}&<!--"


class _Elements(HTMLParser):
    """Collects the elements of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def scripts_of(text: str) -> list[str]:
    return re.findall(r"<script>(.*?)</script>", text, re.DOTALL)


def test_policy_allows_the_scripts_of_the_page_and_nothing_else() -> None:
    text = render(view(trial(1)))
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    policy = policy.replace("&#39;", "'")
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts_of(text)]
    assert len(digests) == 2
    assert policy.startswith(
        "default-src 'none'; script-src " + " ".join(f"'sha256-{digest}'" for digest in digests) + ";"
    )
    assert "http" not in policy


def test_page_names_no_address_to_load_anything_from() -> None:
    page = _Elements(re.sub(r"<script>.*?</script>", "", render(view(trial(1, images=[picture()]))), flags=re.DOTALL))
    for tag, attributes in page.found:
        for name in ("src", "href", "action", "poster"):
            address = attributes.get(name) or ""
            assert address.startswith(("data:", "#")) or not address, f"<{tag} {name}={address!r:.60}>"


def test_what_users_and_services_say_is_shown_and_never_run() -> None:
    told = {"label": HOSTILE, "params": {HOSTILE: HOSTILE}, "job_id": HOSTILE, "task_id": HOSTILE, "archive": HOSTILE}
    trials = trial(1, **told, images=[picture()]), failed(2, error=HOSTILE, health=[HOSTILE])
    text = render(view(*trials, name=HOSTILE, base={HOSTILE: HOSTILE}, command=HOSTILE))
    assert len(re.findall(r"<script\b", text)) == 3  # the data, the plots, the page's own
    assert "<img src=x" not in text
    assert "{{ 7*7 }}" in text
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert json.loads(data)["trials"][0]["label"] == HOSTILE


def test_every_trial_stands_in_the_table_without_a_script() -> None:
    text = render(view(trial(1), failed(2), trial(3, state="running", held_cnx=15.0, cost_cnx=None, noticed_at=None)))
    rows = re.findall(r'<tr class="(\w+)" data-trial="(\d)"', text)
    assert rows == [("done", "1"), ("failed", "2"), ("running", "3")]
    assert "the network gave up after four attempts" in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert "15 held" in text


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -0.0, 1e300])
def test_numbers_that_are_none_do_not_break_the_page(number: float) -> None:
    text = render(view(trial(1, norm=number, blocks={"mid": number}, objective=number), objective_name="loss"))
    [data] = re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)
    json.loads(data, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_sweep_without_trials_has_a_page() -> None:
    assert "0 trials" in render(view())


def test_pictures_stand_by_the_values_of_two_parameters() -> None:
    pictured = [
        trial(number, params={"rank": rank, "learning_rate": rate}, images=[picture(number)])
        for number, (rank, rate) in enumerate([(8, 1e-4), (4, 1e-4), (8, 5e-5), (4, 5e-5), (16, 1e-4)], start=1)
    ]
    grid = picture_grid(view(*pictured, trial(6)))
    assert grid is not None
    assert (grid["across"], grid["columns"], grid["down"]) == ("rank", [4, 8, 16], "learning_rate")
    assert [[len(cell) for cell in cells] for _, cells in grid["rows"]] == [[1, 1, 0], [1, 1, 1]]
    assert grid["rows"][1][1][2][0][0].number == 5
    chosen = picture_grid(view(*pictured), across="learning_rate", down="rank")
    assert chosen is not None
    assert chosen["columns"] == [5e-5, 1e-4]


def test_numbers_drawn_at_random_make_no_grid() -> None:
    drawn = [
        trial(number, params={"learning_rate": number / 7, "rank": 4 * (number % 2)}, images=[picture(number)])
        for number in range(1, 14)
    ]
    grid = picture_grid(view(*drawn))
    assert grid is not None
    assert (grid["across"], grid["columns"], grid["down"]) == ("rank", [0, 4], "")
    chosen = picture_grid(view(*drawn), across="learning_rate")
    assert chosen is not None
    assert len(chosen["columns"]) == 13


def test_heat_is_relative_to_the_strongest_block() -> None:
    first, second = heat_rows(view(trial(1), trial(2)))
    assert first["trial"].number == 2
    assert [(block, share) for block, _, share in first["cells"]] == [("down 0", 100), ("mid", 50)]
    assert [share for _, _, share in second["cells"]] == [50, 25]


def test_page_of_a_thousand_trials_is_below_five_megabytes() -> None:
    assert len(render(view(*(trial(number) for number in range(1, 1001)))).encode()) < 5_000_000
