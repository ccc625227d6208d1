"""Spaces, grids, samples and lists give the same points everywhere, and say what is wrong with a bad one."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crynux_async.errors import ConfigError, UsageError
from crynux_async.sweeps.spaces import Method, choice, grid, integers, listed, log_uniform, random_search, uniform

POSITIONS = st.floats(0, 1, exclude_max=True)


def test_grid_is_every_combination_with_the_last_field_fastest() -> None:
    assert grid(rank=[4, 8], learning_rate=choice(1e-4, 5e-5)) == [
        {"rank": 4, "learning_rate": 1e-4},
        {"rank": 4, "learning_rate": 5e-5},
        {"rank": 8, "learning_rate": 1e-4},
        {"rank": 8, "learning_rate": 5e-5},
    ]


def test_grid_over_nothing_is_the_base_alone() -> None:
    assert grid() == [{}]


@pytest.mark.parametrize("values", ["cosine", 4, [], None, {"a": 1}], ids=repr)
def test_grid_over_what_is_no_list_names_the_field(values: Any) -> None:
    with pytest.raises(UsageError) as caught:
        grid(lr_scheduler=values)
    assert caught.value.field == "lr_scheduler"


@given(position=POSITIONS)
def test_values_lie_in_their_space(position: float) -> None:
    assert choice(4, 8, 16).at(position) in (4, 8, 16)
    assert 0.1 <= uniform(0.1, 0.2).at(position) <= 0.2
    assert 1e-5 <= log_uniform(1e-5, 1e-3).at(position) <= 1e-3
    assert integers(4, 64, step=4).at(position) in range(4, 65, 4)


def test_whole_numbers_are_equally_likely_and_reach_both_ends() -> None:
    counts = Counter(integers(1, 4).at(step / 4000) for step in range(4000))
    assert counts == {1: 1000, 2: 1000, 3: 1000, 4: 1000}


def test_logarithmic_middle_is_the_geometric_mean() -> None:
    assert log_uniform(1e-5, 1e-3).at(0.5) == pytest.approx(math.sqrt(1e-5 * 1e-3))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: choice(), "at least one value"),
        (lambda: uniform(1, 1), "second must be larger"),
        (lambda: uniform(float("nan"), 1), "finite"),
        (lambda: log_uniform(0, 1), "above 0"),
        (lambda: integers(5, 4), "no number"),
        (lambda: integers(1, 4, step=0), "no number"),
        (lambda: integers(1.5, 4), "whole numbers"),  # type: ignore[arg-type]
    ],
)
def test_space_without_values_is_refused(make: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make()


def search(n: int, *, seed: int = 1, method: Method = "random") -> list[Any]:
    return random_search(n, seed=seed, method=method, rank=choice(4, 8, 16), learning_rate=log_uniform(1e-5, 1e-3))


@pytest.mark.parametrize("method", ["random", "sobol", "halton"])
def test_more_points_of_one_seed_begin_with_the_same_ones(method: Method) -> None:
    assert search(40, method=method)[:10] == search(10, method=method)
    assert search(10, method=method, seed=2) != search(10, method=method)


def test_random_points_are_those_of_every_machine() -> None:
    # Mersenne Twister, seed 1: its first numbers are 0.134364, 0.847434 (Python's documentation promises the sequence).
    [point] = search(1)
    assert point["rank"] == 4
    assert point["learning_rate"] == pytest.approx(1e-5 * 100**0.8474337369372327, rel=1e-5)


@pytest.mark.parametrize("method", ["sobol", "halton", "latin_hypercube"])
def test_low_discrepancy_points_leave_no_tenth_of_a_space_empty(method: Method) -> None:
    points = random_search(64, seed=0, method=method, noise_offset=uniform(0, 1))
    assert {int(point["noise_offset"] * 10) for point in points} == set(range(10))


def test_no_points_are_no_points() -> None:
    assert search(0) == search(0, method="sobol") == []


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"n": -1}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": 1, "rank": [4, 8]}, "rank"),
        ({"n": 1, "method": "grid", "rank": choice(1)}, "method"),
    ],
)
def test_search_that_cannot_be_made_names_the_argument(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(UsageError) as caught:
        random_search(**arguments)
    assert caught.value.field == field


def test_table_is_read_cell_by_cell(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text(
        '\ufeffrank, learning_rate,lr_scheduler,target_modules\n4,1e-4,cosine,"[""to_k"", ""to_q""]"\n8,,constant,\n'
    )
    assert listed(tmp_path / "points.csv") == [
        {"rank": 4, "learning_rate": 1e-4, "lr_scheduler": "cosine", "target_modules": ["to_k", "to_q"]},
        {"rank": 8, "lr_scheduler": "constant"},
    ]


def test_json_lines_and_toml_are_read(tmp_path: Path) -> None:
    (tmp_path / "points.jsonl").write_text('{"rank": 4}\n\n{"rank": 8}\n')
    (tmp_path / "points.toml").write_text("[[points]]\nrank = 4\n[[points]]\nrank = 8\n")
    assert listed(tmp_path / "points.jsonl") == listed(tmp_path / "points.toml") == [{"rank": 4}, {"rank": 8}]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("points.csv", "rank\n4\n8,9\n", "line 3"),
        ("points.csv", "rank,, rank,\n4,,8,\n", "line 1.*has two columns 'rank'"),
        ("points.jsonl", '{"rank": 4}\n{"rank": \n', "line 2"),
        ("points.jsonl", "4\n", "line 1"),
        ("points.toml", "rank = [", "is not TOML"),
        ("points.toml", "points = 4", r"\[\[points\]\]"),
    ],
)
def test_list_that_cannot_be_read_says_where(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=said):
        listed(tmp_path / name)


def test_missing_list_and_unknown_ending_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"points\.csv"):
        listed(tmp_path / "points.csv")
    with pytest.raises(UsageError, match=r"\.csv, \.jsonl, \.toml"):
        listed(tmp_path / "points.xlsx")


@given(st.lists(st.dictionaries(st.sampled_from(["rank", "label"]), st.integers() | st.text(), max_size=2)))
def test_json_lines_give_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, points: list[Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "written.jsonl"
    path.write_text("".join(json.dumps(point) + "\n" for point in points))
    assert listed(path) == points


def test_list_of_points_may_hold_ends_of_lines_and_their_like(tmp_path: Path) -> None:
    prompt = "a\u2028b\x0bc\x85d"
    lines = tmp_path / "points.jsonl"
    table = tmp_path / "points.csv"
    table.write_text(f'validation_prompt\r\n"{prompt}\nand more"\r\n', encoding="utf-8", newline="")
    assert listed(table) == [{"validation_prompt": f"{prompt}\nand more"}]
    lines.write_text(json.dumps({"validation_prompt": "a\u2028b"}, ensure_ascii=False) + "\r\n", encoding="utf-8")
    assert listed(lines) == [{"validation_prompt": "a\u2028b"}]


def test_line_with_too_many_cells_is_named_behind_empty_ones_and_long_cells(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text('rank\n\n"4\n"\n8,16\n', encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        listed(path)
    assert caught.value.problems[0].field == f"{path}, line 5"
