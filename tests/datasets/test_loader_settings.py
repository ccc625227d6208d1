"""README.md and its like, which a node reads before any image."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from crynux_async.datasets.loader_settings import judge_settings
from tests.datasets.layouts import checked, codes, error_codes, good, write
from tests.datasets.node.client import Node, missing

PLAIN = (
    b"# Cats\n---\nnot: a: head\n---\n",
    b"---\nlicense: mit\n---\n",
    b"\xef\xbb\xbf---\nlicense: cc-by-4.0\n---\n",
    b'---\r\nlanguage: en\r\ntags:\r\n- art\r\n- "sd: 1"\r\nsize_categories:\r\n  - n<1K\r\n  - 1K<n<10K\r\n---\r\n',
    b"---\n# made by hand\n\npretty_name: Cats & Dogs (2024), don't panic\nsource: https://example.com/a#b\n---\n",
    b"---\ntags: [art, sd-1.5]\nannotations_creators: []\ndescription:\n---\n",
    "---\npretty_name: caf\u00e9 \u732b\n---\n".encode(),
    b"---\nno end: of: the head\n",
    b"---\ndescription: |\n  Two lines\n  of words: with a colon\nlicense: mit\n---\n",
    b"---\nauthor:\n  name: Ann\n  since: 2021-05-03\nversion: 1.0\n---\n",
    b"---\n---\n",
)
BROKEN = (
    b"---\nlicense: : mit\n---\n",
    b"---\ntitle: My set: cats\n---\n",
    b"---\n\tlicense: mit\n---\n",
    b"\n---\nCats, by me.\n---\n",
    b"---\n- a\n- b\n---\n",
    b"---\nlicense: mit\n- a\n---\n",
    b"---\ntags:\n  - a\n- b\n---\n",
    b"---\ntags: [a,\n---\n",
    b'---\nname: "Cats\n---\n',
    b"---\nname: @cats\n---\n",
    b"---\nname: a\x07b\n---\n",
    b"\xef\xbb\xbf---\nCats\n---\n",
    b"---\n1: one\n---\n",
    b"---\nsince: 2021-13-45\n---\n",
    b"---\nlicense: *mit\n---\n",
    b"---\ndeep: " + b"[" * 3000 + b"]" * 3000 + b"\n---\n",
)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    if missing():
        pytest.skip(missing())
    with Node() as running:
        yield running


@pytest.mark.parametrize("readme", PLAIN)
def test_plain_head_decides_nothing(readme: bytes) -> None:
    assert judge_settings({"README.md": readme}) == ()


@pytest.mark.parametrize("readme", PLAIN)
def test_node_reads_a_plain_head(readme: bytes, node: Node, tmp_path: Path) -> None:
    assert node.load(write(tmp_path / "cats", {**good(), "README.md": readme})).reason == ""


@pytest.mark.parametrize("readme", BROKEN)
def test_head_at_which_a_node_stops_is_an_error(readme: bytes, tmp_path: Path) -> None:
    report = checked(tmp_path, {**good(), "README.md": readme})
    assert (error_codes(report), codes(report), report.usable_count) == ({"CX315"}, {"CX315"}, 0)


@pytest.mark.parametrize(
    "head", [b"configs:\n- config_name: a\n", b"dataset_info: {}\n", b"note: " + b"x" * 70_000 + b"\n"]
)
def test_head_that_is_not_followed_leaves_nothing_usable(head: bytes, tmp_path: Path) -> None:
    report = checked(tmp_path, {**good(), "README.md": b"---\n" + head + b"---\n"})
    assert (codes(report), report.errors, report.usable_count) == ({"CX315"}, (), 0)


@pytest.mark.parametrize("readme", BROKEN)
def test_node_stops_at_a_broken_head(readme: bytes, node: Node, tmp_path: Path) -> None:
    assert node.load(write(tmp_path / "cats", {**good(), "README.md": readme})).reason


def test_readme_in_another_encoding_is_an_error(tmp_path: Path) -> None:
    assert error_codes(checked(tmp_path, {**good(), "README.md": "Caf\u00e9".encode("cp1252")})) == {"CX302"}


def test_node_stops_at_a_readme_in_another_encoding(node: Node, tmp_path: Path) -> None:
    readme = "Caf\u00e9".encode("cp1252")
    assert "UnicodeDecodeError" in node.load(write(tmp_path / "cats", {**good(), "README.md": readme})).reason


@pytest.mark.parametrize("name", [".huggingface.yaml", "dataset_infos.json"])
def test_other_files_with_settings_leave_nothing_usable(name: str, tmp_path: Path) -> None:
    report = checked(tmp_path, {**good(), name: b"not what it should be"})
    assert (codes(report), report.usable_count) == ({"CX315"}, 0)
    assert {problem.files for problem in report.problems} == {(name,)}


@pytest.mark.parametrize("name", [".huggingface.yaml", "dataset_infos.json"])
def test_node_stops_at_other_files_with_bad_settings(name: str, node: Node, tmp_path: Path) -> None:
    assert node.load(write(tmp_path / "cats", {**good(), name: b"not what it should be"})).reason


@pytest.mark.parametrize("name", ["a/README.md", "a/.huggingface.yaml", "a/dataset_infos.json"])
def test_files_further_down_decide_nothing(name: str, tmp_path: Path) -> None:
    assert codes(checked(tmp_path, {**good(), name: b"---\nx: y: z\n---\n\xff"})) == set()
