"""A sweep in a file is the same sweep as in Python, and a mistake in it is named."""

from pathlib import Path
from typing import Any

import pytest

from crynux_async.errors import ConfigError, UsageError
from crynux_async.sweeps.spaces import choice, grid, listed, log_uniform, random_search
from crynux_async.sweeps.sweep import Sweep
from crynux_async.training.config import FineTuneConfig

BASE = {"model_name": "crynux-ai/stable-diffusion-v1-5", "dataset_name": "a/b", "max_train_steps": 200}
TOML = """
name = "cats"
folder = "models/cats"
repeats = 2
budget_cnx = 480
tags = { team = "art" }

[base]
model_name = "crynux-ai/stable-diffusion-v1-5"
dataset_name = "a/b"
max_train_steps = 200

[[grid]]
rank = [4, 8]
learning_rate = [1e-4, 5e-5]

[[random]]
n = 5
seed = 1
rank = [4, 8]
learning_rate = { log_uniform = [1e-5, 1e-3] }

[[listed]]
file = "points.csv"

[[points]]
rank = 64
"""


def sweep_file(folder: Path, text: str = TOML) -> Path:
    (folder / "points.csv").write_text("rank,lr_scheduler\n16,cosine\n")
    (folder / "sweep.toml").write_text(text)
    return folder / "sweep.toml"


def test_file_and_script_with_the_same_words_are_the_same_sweep(tmp_path: Path) -> None:
    written = Sweep.from_file(sweep_file(tmp_path))
    scripted = Sweep(
        name="cats",
        base=FineTuneConfig.from_dict(BASE),
        points=[
            *grid(rank=[4, 8], learning_rate=[1e-4, 5e-5]),
            *random_search(5, seed=1, rank=choice(4, 8), learning_rate=log_uniform(1e-5, 1e-3)),
            *listed(tmp_path / "points.csv"),
            {"rank": 64},
        ],
        folder=tmp_path / "models/cats",
        repeats=2,
        budget_cnx=480,
        tags={"team": "art"},
    )
    assert [point.key for point in written.plan().good] == [point.key for point in scripted.plan().good]
    assert (written.folder, written.repeats, written.budget_cnx, written.tags) == (
        scripted.folder,
        scripted.repeats,
        scripted.budget_cnx,
        scripted.tags,
    )
    assert len(written.points) == 11


def test_file_without_points_is_a_sweep_of_its_base(tmp_path: Path) -> None:
    text = '[base]\nmodel_name = "a/b"\ndataset_name = "a/b"\n'
    definition = Sweep.from_file(sweep_file(tmp_path, text))
    assert (definition.name, len(definition.plan().good)) == ("sweep", 1)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (("[[grid]]", "[[gird]]"), "gird"),
        (("[base]", "[bsae]"), "bsae"),
        (("n = 5", ""), "random.n"),
        (("log_uniform = [1e-5, 1e-3]", "log_unifrom = [1e-5, 1e-3]"), "random.learning_rate"),
        (("log_uniform = [1e-5, 1e-3]", "log_uniform = [0, 1e-3]"), "random.learning_rate"),
        (("rank = [4, 8]\nlearning_rate = [1e-4", "rank = 4\nlearning_rate = [1e-4"), "grid.rank"),
        (('file = "points.csv"', 'path = "points.csv"'), "listed"),
        (("[[grid]]", "[grid]"), "grid"),
        (('folder = "models/cats"', "folder = 3"), "folder"),
        (("seed = 1", 'seed = "x"'), "random.seed"),
        (("log_uniform = [1e-5, 1e-3]", "log_uniform = [1e-5]"), "random.learning_rate"),
        (("log_uniform = [1e-5, 1e-3]", "integers = [1, 9, 2, 3]"), "random.learning_rate"),
    ],
)
def test_mistake_in_a_file_is_named_with_its_place(tmp_path: Path, change: tuple[str, str], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Sweep.from_file(sweep_file(tmp_path, TOML.replace(*change, 1)))
    assert field in (caught.value.field or "")
    assert "sweep.toml" in str(caught.value)


def test_space_with_too_few_numbers_says_what_it_takes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"log_uniform takes \[low, high\], not \[1e-05\]"):
        Sweep.from_file(sweep_file(tmp_path, TOML.replace("[1e-5, 1e-3]", "[1e-5]")))


def test_wrong_base_is_told_like_a_wrong_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Sweep.from_file(sweep_file(tmp_path, TOML.replace("max_train_steps = 200", "max_train_step = 200")))
    assert caught.value.field == "max_train_step"


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file") as caught:
        Sweep.from_file(tmp_path / "missing.toml")
    assert str(caught.value).count("missing.toml") == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"repeats": 0}, "repeats"),
        ({"points": [{"rank": 4}, 8]}, "points"),
        ({"points": {"rank": 4}}, "points"),
        ({"budget_cnx": -1}, "budget_cnx"),
        ({"budget_cnx": "much"}, "budget_cnx"),
        ({"tags": ["art"]}, "tags"),
        ({"tags": {"team": 3}}, "tags"),
        ({"name_template": 3}, "name_template"),
        ({"name_template": "{nope}.zip"}, "name"),
    ],
)
def test_sweep_whose_arguments_mean_nothing_is_refused(changes: dict[str, Any], field: str) -> None:
    arguments: dict[str, Any] = {"name": "cats", "base": FineTuneConfig.from_dict(BASE), "points": [{}], **changes}
    with pytest.raises(UsageError) as caught:
        Sweep(**arguments)
    assert caught.value.field == field


def test_what_a_name_stands_for_has_no_drawn_seed_and_no_points() -> None:
    first, second = (
        Sweep(name="cats", base=FineTuneConfig.from_dict(BASE), points=grid(rank=ranks)).asked()
        for ranks in ([4], [4, 8])
    )
    assert first == second
    assert "seed" not in first["base"]
    given = Sweep(name="cats", base=FineTuneConfig.from_dict({**BASE, "seed": 7}), points=[{}]).asked()
    assert given["base"]["seed"] == 7


def test_folder_is_made_absolute_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    definition = Sweep(name="cats", base=FineTuneConfig.from_dict(BASE), points=[{}], folder="models")
    assert definition.folder == tmp_path / "models"
