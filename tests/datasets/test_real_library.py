"""What check() and pack() say, compared with the library that nodes run: datasets 3.1.0 with pandas 2."""

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crynux_async.datasets import DatasetReport, check, pack
from crynux_async.datasets.layout import lay_out
from tests.datasets.test_check import FAILING, LOSING, SIDE, WORKING, csv_rows, picture, pictures, row, rows, write

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    datasets: Any = pytest.importorskip("datasets")
    pandas: Any = pytest.importorskip("pandas")
    data_files: Any = pytest.importorskip("datasets.data_files")
    load: Any = pytest.importorskip("datasets.load")

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not datasets.__version__.startswith("3.1."), reason="nodes run datasets 3.1"),
]
_OLD_PANDAS = int(pandas.__version__.partition(".")[0]) < 3


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


def as_a_node(folder: Path, cache: Path) -> tuple[dict[str, int], list[object]]:
    """The examples of every split and the captions of train, found the way a node finds them.

    Source: stable-diffusion-task finetune_lora.py.
    """
    loaded = datasets.load_dataset(str(folder), cache_dir=str(cache), trust_remote_code=False)
    train = loaded["train"]
    captions: list[object] = []
    for example in train:
        example["image"].convert("RGB")
        caption = example["text"]
        if isinstance(caption, list):
            caption = tuple(caption)
        is_text = isinstance(caption, str) or (isinstance(caption, tuple) and len(caption) > 0)
        if not is_text or not all(isinstance(part, str) for part in caption):
            raise ValueError("Caption column should contain either strings or lists of strings.")
        captions.append(caption)
    return {split: len(examples) for split, examples in loaded.items()}, captions


def _needs(files: Mapping[str, bytes]) -> None:
    if any(name.endswith(".csv") for name in files) and not _OLD_PANDAS:
        pytest.skip("datasets 3.1 reads metadata.csv with pandas 2 only")


def _in_order(captions: object) -> list[str]:
    return sorted(map(repr, captions))  # type: ignore[call-overload]


def compared(tmp_path: Path, files: Mapping[str, bytes]) -> tuple[DatasetReport, Path]:
    _needs(files)
    folder = write(tmp_path / "cats", files)
    return check(folder, resolution=SIDE), folder


@pytest.mark.parametrize("layout", WORKING)
def test_real_library_loads_what_check_accepts(layout: str, tmp_path: Path) -> None:
    report, folder = compared(tmp_path, WORKING[layout]())
    counts, captions = as_a_node(folder, tmp_path / "cache")
    assert counts == report.split_counts
    assert _in_order(captions) == _in_order(report.captions.values())


@pytest.mark.parametrize("layout", FAILING)
def test_real_library_fails_on_what_check_refuses(layout: str, tmp_path: Path) -> None:
    report, folder = compared(tmp_path, FAILING[layout][0]())
    assert not report.is_ok
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the library raises, the job is lost
        as_a_node(folder, tmp_path / "cache")


@pytest.mark.parametrize("layout", LOSING)
def test_real_library_loses_the_images_that_check_misses(layout: str, tmp_path: Path) -> None:
    report, folder = compared(tmp_path, LOSING[layout][0]())
    counts, _ = as_a_node(folder, tmp_path / "cache")
    assert counts["train"] == report.train_count < report.image_count


def test_real_library_loads_what_was_packed_with_equal_captions(tmp_path: Path) -> None:
    captions = {
        "000_train": "a cat, sitting",
        "dev-1": 'Ünïcode ‘quotes’ "and" \\ 猫',
        "a/test/x": "None",
        "b/x": "12",
        "v1.5.txt": "two\nlines",
        "X": "2024-01-31",
    }
    files = {f"{name}.Png": picture(number) for number, name in enumerate(captions)}
    files |= {f"{name}.txt": text.encode() for name, text in captions.items()}
    packed = pack(write(tmp_path / "in", files), tmp_path / "out.zip")
    datasets.utils.extract.ZipExtractor.extract(str(packed.path), str(tmp_path / "out"))
    counts, found = as_a_node(tmp_path / "out", tmp_path / "cache")
    assert counts == {"train": len(captions)}
    assert _in_order(found) == _in_order(captions.values())


def test_real_library_loads_a_packed_csv_with_equal_captions(tmp_path: Path) -> None:
    files = {**pictures(4), "metadata.csv": csv_rows("None", "5", '"a, ""b"""', "NA")}
    packed = pack(write(tmp_path / "in", files), tmp_path / "out.zip")
    datasets.utils.extract.ZipExtractor.extract(str(packed.path), str(tmp_path / "out"))
    _, found = as_a_node(tmp_path / "out", tmp_path / "cache")
    assert _in_order(found) == _in_order(["None", "5", 'a, "b"', "NA"])


def test_real_library_counts_a_name_with_its_split_twice_like_check(tmp_path: Path) -> None:
    files = {"train_train_0.png": picture(), "metadata.jsonl": row("train_train_0.png", "a cat")}
    report, folder = compared(tmp_path, files)
    assert as_a_node(folder, tmp_path / "cache")[0] == report.split_counts == {"train": 2}


@pytest.mark.parametrize(("marked", "is_ok"), [(True, True), (False, False)])
def test_real_library_needs_the_image_mark_of_parquet_like_check(marked: bool, is_ok: bool, tmp_path: Path) -> None:
    images = [{"bytes": picture(number), "path": None} for number in range(6)]
    features = {
        "text": datasets.Value("string"),
        "image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
    }
    if marked:
        features["image"] = datasets.Image()
    table = datasets.Dataset.from_dict({"image": images, "text": ["a cat"] * 6}, features=datasets.Features(features))
    (tmp_path / "cats" / "data").mkdir(parents=True)
    table.to_parquet(tmp_path / "cats" / "data" / "train-00000-of-00001.parquet")
    report = check(tmp_path / "cats")
    assert (report.loader, report.is_ok, report.train_count) == ("parquet", is_ok, 6)
    if is_ok:
        assert as_a_node(tmp_path / "cats", tmp_path / "cache")[0] == {"train": 6}
    else:
        with pytest.raises(AttributeError):
            as_a_node(tmp_path / "cats", tmp_path / "cache")


_PART = st.sampled_from(
    "train training validation valid dev val test testing eval evaluation cat data Train TEST x metadata".split()  # noqa: SIM905
)
_GLUE = st.sampled_from(["-", ".", " ", "_", "0", "/", "", "a", "__"])
_EXTENSION = st.sampled_from(".png .jpg .PNG .Png .txt .jsonl .csv .json .parquet .md .tsv .jpg.txt .mp4 .pdf".split())  # noqa: SIM905
_NAME = st.tuples(st.lists(st.tuples(_PART, _GLUE), min_size=1, max_size=3), _EXTENSION).map(
    lambda parts: re.sub("/+", "/", "".join(word + glue for word, glue in parts[0])).strip("/") + parts[1]
)
_FIXED = st.sampled_from(
    ["README.md", "metadata.jsonl", "train/metadata.csv", "__X/a.png", ".x.png", "data/test-00000-of-00002.png"]
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_NAME | _FIXED, min_size=1, max_size=7, unique=True))
def test_real_library_chooses_splits_and_loaders_like_lay_out(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    root = tmp_path_factory.mktemp("names")
    for name in names:
        try:
            write(root, {name: b""})
        except OSError:  # the name of an earlier file is a folder here
            continue
    there = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    layout = lay_out(there)
    try:
        patterns = data_files.get_data_patterns(str(root))
    except data_files.EmptyDatasetError:
        assert layout.rule == "none"
        return
    listed = data_files.DataFilesDict.from_patterns(
        patterns, base_path=str(root), allowed_extensions=load.ALL_ALLOWED_EXTENSIONS
    )
    loaders = {split: load.infer_module_for_data_files_list(files) for split, files in listed.items()}
    assert layout.loaders == {s: "tsv" if options else loader or "" for s, (loader, options) in loaders.items()}
    kept = {
        split: files.filter_extensions(load._MODULE_TO_EXTENSIONS[loaders[split][0]]) if loaders[split][0] else []
        for split, files in listed.items()
    }
    assert {split: list(files) for split, files in layout.splits.items()} == {
        split: [Path(file).relative_to(root).as_posix() for file in files] for split, files in kept.items()
    }


def test_real_library_and_check_agree_on_captions_of_every_kind(tmp_path: Path) -> None:
    files = {**pictures(3), "metadata.jsonl": rows(2) + row("2.png", "")}
    report, folder = compared(tmp_path, files)
    assert _in_order(as_a_node(folder, tmp_path / "cache")[1]) == _in_order(report.captions.values())
