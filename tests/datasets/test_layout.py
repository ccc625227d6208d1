"""Which split and which loader names lead to, and which row belongs to which image."""

import posixpath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.datasets.layout import Layout, extension_of, is_visible, lay_out, split_word
from crynux_async.datasets.matching import match
from crynux_async.datasets.tables import Table

_WORDS = ("train", "training", "validation", "valid", "dev", "val", "test", "testing", "eval", "evaluation")
_NAMES = st.lists(
    st.text("abtrainvles/._- 0", min_size=1, max_size=12).map(lambda text: posixpath.normpath("x" + text) + ".png"),
    max_size=8,
    unique=True,
)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("000_train.png", "train"),
        ("train.png", "train"),
        ("cat training 1.png", "train"),
        ("a/valid-1.png", "validation"),
        ("dev0.png", "validation"),
        ("x.val.png", "validation"),
        ("my test/a.png", "test"),
        ("eval/a/b.png", "test"),
        ("evaluation.d/b.png", "test"),
    ],
)
def test_name_with_a_split_word_stands_for_the_split(name: str, split: str) -> None:
    assert split_word(name) == split


@pytest.mark.parametrize(
    "name",
    ["trainer.png", "latest.png", "Train.png", "TEST/a.png", "contest-1.png", "development/a.png", "train+1/a.png"],
)
def test_name_that_only_looks_like_a_split_word_is_none(name: str) -> None:
    assert split_word(name) is None


def test_folder_names_go_before_file_names() -> None:
    layout = lay_out(["train/test_1.png", "train/test_2.png"])
    assert (layout.rule, dict(layout.splits)) == ("folders", {"train": ("train/test_1.png", "train/test_2.png")})


def test_shards_in_data_go_before_everything() -> None:
    layout = lay_out(["data/train-00000-of-00001.parquet", "test/a.png", "train_1.png"])
    assert layout.rule == "shards"
    assert layout.splits == {"train": ("data/train-00000-of-00001.parquet",)}


def test_names_without_a_word_are_all_train() -> None:
    layout = lay_out(["b.png", "a/a.png", "metadata.jsonl"])
    assert (layout.rule, layout.loader) == ("all", "imagefolder")
    assert layout.images("train") == ("a/a.png", "b.png")


@pytest.mark.parametrize("name", [".a.png", "a/.b/c.png", "__MACOSX/a.png", "README.md", "a/config.json"])
def test_hidden_and_special_files_are_invisible(name: str) -> None:
    assert not is_visible(name)


@pytest.mark.parametrize("name", ["__a.png", "a.b/c.png", "_x/a.png"])
def test_ordinary_files_are_visible(name: str) -> None:
    assert is_visible(name)


@pytest.mark.parametrize(
    ("names", "loader"),
    [
        (["a.png", "a.txt"], "text"),
        (["a.png", "b.png", "a.txt"], "imagefolder"),
        (["a.jpg", "a.json"], "json"),
        (["a.png", "a.json"], "imagefolder"),
        (["a.png", "a.parquet"], "parquet"),
        (["metadata.csv"], "csv"),
        (["a.png", "metadata.csv", "b/metadata.csv"], "imagefolder"),
        (["a.zip"], "zip"),
        (["a.pdf"], ""),
        (["a.Png"], ""),
        (["a.tsv", "a.pdf", "b.pdf"], "tsv"),
        (["a.txt.png"], "text"),
    ],
)
def test_most_frequent_extension_decides_the_loader(names: list[str], loader: str) -> None:
    assert lay_out(names).loader == loader


def test_only_the_first_200_files_decide_the_loader() -> None:
    names = [f"a{number:03d}.png" for number in range(200)] + [f"b{number:03d}.txt" for number in range(500)]
    assert lay_out(names).loader == "imagefolder"


def test_no_visible_file_is_no_layout() -> None:
    assert lay_out([".hidden", "README.md"]) == Layout(rule="none")


@pytest.mark.parametrize(("name", "extension"), [("a.PNG", ".png"), (".png", ""), ("a", ""), ("x.y/a", "")])
def test_extension_is_what_follows_the_last_dot_of_the_name(name: str, extension: str) -> None:
    assert extension_of(name) == extension


@settings(max_examples=200)
@given(_NAMES)
def test_every_listed_file_was_given_and_is_visible(names: list[str]) -> None:
    layout = lay_out(names)
    listed = {name for files in layout.splits.values() for name in files}
    assert listed <= {name for name in names if is_visible(name)}


@settings(max_examples=200)
@given(_NAMES)
def test_without_any_split_word_everything_is_trained(names: list[str]) -> None:
    plain = [name for name in names if not any(word in name for word in _WORDS) and is_visible(name)]
    assert sorted(lay_out(plain).images("train")) == sorted(plain)


@settings(max_examples=200)
@given(_NAMES)
def test_order_of_the_names_does_not_matter(names: list[str]) -> None:
    assert lay_out(names) == lay_out(reversed(names))


def _table(file: str, *names: str) -> Table:
    rows = tuple({"file_name": name, "text": f"{file}:{name}"} for name in names)
    return Table(file=file, columns={"file_name": "text", "text": "text"}, rows=rows)


def test_nearest_metadata_file_above_an_image_is_used() -> None:
    tables = [_table("metadata.jsonl", "a/x.png", "y.png"), _table("a/metadata.jsonl", "x.png")]
    matching = match(["a/x.png", "y.png"], tables)
    assert {image: row["text"] for image, row in matching.rows.items()} == {
        "a/x.png": "a/metadata.jsonl:x.png",
        "y.png": "metadata.jsonl:y.png",
    }
    assert list(matching.unused) == ["a/x.png"]


def test_farther_metadata_file_does_not_fill_in() -> None:
    tables = [_table("metadata.jsonl", "a/x.png", "a/y.png"), _table("a/metadata.jsonl", "x.png")]
    assert match(["a/x.png", "a/y.png"], tables).missing == ("a/y.png",)


def test_folder_with_the_same_beginning_is_not_above() -> None:
    assert match(["ab/x.png"], [_table("a/metadata.jsonl", "x.png")]).missing == ("ab/x.png",)


def test_row_with_dots_or_backslashes_is_found() -> None:
    matching = match(["a/x.png", "y.png"], [_table("metadata.jsonl", "a\\x.png", "./b/../y.png")])
    assert matching.missing == ()


def test_row_that_names_no_file_is_reported() -> None:
    table = Table(file="metadata.jsonl", rows=({"text": "x"},))
    assert match(["x.png"], [table]).unnamed == ("metadata.jsonl",)
