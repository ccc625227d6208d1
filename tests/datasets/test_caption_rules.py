"""What can be wrong with captions, each rule by itself."""

import pytest

from crynux_async.datasets.caption_rules import judge_captions, judge_column

# 77 tokens are read, two of them the start and end marks; a word of up to ten letters counts one.
LONGEST = " ".join(["cat"] * 75)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "CX327"),
        (5, "CX328"),
        ([], "CX328"),
        (["a cat", 5], "CX328"),
        ("", "CX329"),
        (" \n", "CX329"),
        (["a cat", " "], "CX329"),
        (f"{LONGEST} cat", "CX335"),
        (["a cat", f"{LONGEST} cat"], "CX335"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_caption_that_is_wrong_is_named_with_its_image_only(value: object, code: str) -> None:
    judged = judge_captions({"good.png": "a cat", "bad.png": value})
    assert [(found.code, found.files) for found in judged.problems] == [(code, ("bad.png",))]


@pytest.mark.parametrize("value", ["a cat", LONGEST, ["a cat", "a black cat"]], ids=lambda value: str(value)[:20])
def test_caption_that_is_right_is_kept_and_causes_no_problem(value: object) -> None:
    judged = judge_captions({"good.png": value})
    assert judged.problems == ()
    assert judged.by_image == {"good.png": tuple(value) if isinstance(value, list) else value}


def test_captions_that_can_be_trained_on_are_kept_beside_those_that_cannot() -> None:
    judged = judge_captions({"good.png": "a cat", "none.png": None, "number.png": 5, "empty.png": ""})
    assert judged.by_image == {"good.png": "a cat", "empty.png": ""}


@pytest.mark.parametrize(("kind", "codes"), [("text", []), ("list", []), ("nothing", []), ("time", ["CX328"])])
def test_column_is_judged_by_the_kind_that_a_loader_gives_all_of_its_values(kind: str, codes: list[str]) -> None:
    found = list(judge_column(kind, "metadata.csv"))
    assert [item.code for item in found] == codes
    assert all(item.files == ("metadata.csv",) for item in found)
