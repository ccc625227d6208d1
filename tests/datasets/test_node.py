"""What check() and pack() say, compared with what a node does: its libraries, in its versions, in a process of its own.

A few hundred generated data sets by default; more with ``CRYNUX_TEST_NODE_CASES=2000 CRYNUX_TEST_NODE_SEED=7``.
"""

import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from crynux_async.datasets import DatasetError, DatasetReport, check, pack
from crynux_async.datasets.images import look_at
from crynux_async.datasets.layout import lay_out
from tests.datasets.layouts import FAILING, LOSING, WORKING, write
from tests.datasets.node.cases import DatasetCase, dataset_cases
from tests.datasets.node.client import Node, Verdict, missing
from tests.datasets.node.known_cases import ACCEPTED, PACKED, REFUSED, known_case
from tests.datasets.node.pictures import SIDE, odd_pictures
from tests.datasets.node.table_cases import table_cases

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

CASES = int(os.environ.get("CRYNUX_TEST_NODE_CASES", "300"))
SEED = int(os.environ.get("CRYNUX_TEST_NODE_SEED", "0"))
PARTS = 4

# A node loads these, and silently leaves pictures out: a check that says yes would be no help.
LOSSES = frozenset(("CX309", "CX311", "CX318"))


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node() as running:
        yield running


def difference(report: DatasetReport, verdict: Verdict) -> str:
    """How the two sides differ, or ``""``."""
    fatal = [problem.code for problem in report.errors if problem.code not in LOSSES]
    if not report.is_checked and not fatal:
        return "usable, although it was not looked at" if report.usable_count else ""
    if verdict.accepted == bool(fatal):
        return f"check finds {fatal}, the node says {verdict.reason or 'yes'}"
    if fatal:
        return ""
    if dict(report.split_counts) != dict(verdict.splits):
        return f"{dict(report.split_counts)} and {dict(verdict.splits)} examples"
    ours, theirs = _captions(report), _rows(verdict)
    if ours != theirs:
        return f"only check: {ours - theirs}, only the node: {theirs - ours}"
    if bool(report.errors) and report.usable_count >= report.image_count:
        return f"{[problem.code for problem in report.errors]} although nothing is lost"
    return ""


def _captions(report: DatasetReport) -> set[tuple[str | None, str]]:
    in_files = report.loader == "imagefolder"
    texts = {
        name: list(caption) if isinstance(caption, tuple) else caption for name, caption in report.captions.items()
    }
    return {(name if in_files else None, json.dumps(text)) for name, text in texts.items()}


def _rows(verdict: Verdict) -> set[tuple[str | None, str]]:
    return {(name, json.dumps(caption)) for name, caption, *_ in verdict.rows}


def compared(case: DatasetCase, node: Node, place: Path) -> tuple[DatasetReport, Verdict] | None:
    """Both sides, or None when this file system cannot hold the data set."""
    path = case.write(place)
    if path is None:
        return None
    columns = {"image_column": case.image_column, "caption_column": case.caption_column}
    return check(path, resolution=SIDE, **columns), node.load(path, **columns)


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("kind", ["images", "tables"])
def test_check_says_what_a_node_does(
    kind: str, part: int, node: Node, tmp_path_factory: pytest.TempPathFactory
) -> None:
    number = CASES * (3 if kind == "images" else 1) // 4 // PARTS

    @seed(SEED * PARTS + part)
    @settings(max_examples=number, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(dataset_cases() if kind == "images" else table_cases())
    def holds(case: DatasetCase) -> None:
        both = compared(case, node, tmp_path_factory.mktemp("case"))
        assert both is None or difference(*both) == ""

    holds()


@pytest.mark.parametrize("part", range(2))
def test_a_node_loads_whatever_is_packed(part: int, node: Node, tmp_path_factory: pytest.TempPathFactory) -> None:
    @seed(SEED * 2 + part)
    @settings(max_examples=CASES // 8, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(dataset_cases(), st.sampled_from([None, "cp1252", "utf-16"]))
    def holds(case: DatasetCase, encoding: str | None) -> None:
        place = tmp_path_factory.mktemp("case")
        folder = attrs.evolve(case, name="cats", zip_flaw="").write(place)
        if folder is None:
            return
        packed = None
        with contextlib.suppress(DatasetError):
            packed = pack(folder, place / "out.zip", caption_column=case.caption_column, encoding=encoding)
        if packed is None:
            return
        verdict, report = node.load(packed.path), check(packed.path, resolution=SIDE)
        assert (verdict.reason, report.errors) == ("", ())
        assert verdict.splits == {"train": packed.image_count}
        assert _captions(report) == _rows(verdict)

    holds()


@pytest.mark.parametrize("name", ["cats", "cats.zip", "cats.tar.xz"])
@pytest.mark.parametrize("known", ACCEPTED)
def test_check_and_a_node_accept(known: str, name: str, node: Node, tmp_path: Path) -> None:
    both = compared(known_case(ACCEPTED[known](), name), node, tmp_path)
    assert both is not None
    assert (both[0].errors, both[1].reason, difference(*both)) == ((), "", "")


@pytest.mark.parametrize("known", REFUSED)
def test_check_and_a_node_refuse(known: str, node: Node, tmp_path: Path) -> None:
    both = compared(known_case(REFUSED[known]()), node, tmp_path)
    assert both is not None
    assert both[0].errors
    assert both[1].reason


@pytest.mark.parametrize("name", ["cats.zip", "cats.tar"])
@pytest.mark.parametrize("more", [["\u732b" * 86], ["a", "a/b"], ["a/b", "a"]])
def test_check_and_a_node_refuse_names_that_cannot_be_extracted(
    more: list[str], name: str, node: Node, tmp_path: Path
) -> None:
    both = compared(known_case({**WORKING["flat"](), **dict.fromkeys(more, b"x")}, name), node, tmp_path)
    assert both is not None
    assert ([problem.code for problem in both[0].errors], bool(both[1].reason)) == (["CX304"], True)


@pytest.mark.parametrize("known", PACKED)
def test_a_node_loads_a_known_folder_once_it_is_packed(known: str, node: Node, tmp_path: Path) -> None:
    files, options, captions = PACKED[known]
    packed = pack(write(tmp_path / "cats", files), tmp_path / "cats.zip", **options)
    verdict = node.load(packed.path)
    assert (verdict.reason, sorted(row[1] for row in verdict.rows)) == ("", captions)


@pytest.mark.parametrize("layout", [*WORKING, *FAILING, *LOSING])
def test_check_and_a_node_agree_on_a_layout(layout: str, node: Node, tmp_path: Path) -> None:
    made = WORKING[layout] if layout in WORKING else (FAILING | LOSING)[layout][0]
    both = compared(known_case(made()), node, tmp_path)
    assert both is not None
    assert difference(*both) == ""
    assert both[1].accepted == (layout not in FAILING)


def test_images_open_here_when_they_open_on_a_node(node: Node) -> None:
    pictures: Mapping[str, bytes] = odd_pictures()
    on_a_node = dict(zip(pictures, node.sizes(list(pictures.values())), strict=True))
    here = {name: look_at(data) for name, data in pictures.items()}
    sizes = {
        name: None if facts.fault or facts.is_too_large else (facts.width, facts.height) for name, facts in here.items()
    }
    assert {name: size for name, size in sizes.items() if size != on_a_node[name]} == {}
    assert Counter(size is None for size in sizes.values()).most_common()[-1][1] > 50  # both kinds are many


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


@settings(
    max_examples=max(120, CASES // 4),
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(_NAME | _FIXED, min_size=1, max_size=7, unique=True))
def test_lay_out_chooses_splits_loaders_and_files_like_a_node(
    node: Node, tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    root = tmp_path_factory.mktemp("names")
    for name in names:
        with contextlib.suppress(OSError):  # the name of an earlier file is a folder here
            write(root, {name: b""})
    there = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    layout, found = lay_out(there), node.layout(root)
    if found is None:
        assert layout.rule == "none"
    else:
        assert layout.loaders == found.loaders
        assert layout.splits == found.splits


def test_node_has_the_versions_that_nodes_run(node: Node) -> None:
    expected = {"datasets": "3.1.0", "numpy": "1.26.4", "pandas": "2.3.3", "pillow": "10.0.1", "pyarrow": "24.0.0"}
    assert {name: node.versions[name] for name in expected} == expected
