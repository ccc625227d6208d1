"""What the ending of a model name asks of the emulated network."""

from typing import Any

import pytest

from crynux_async.emulator.nodes.wishes import Wishes, wishes


@pytest.mark.parametrize(
    ("name", "model", "expected"),
    [
        ("a/b", "a/b", {}),
        ("fail", "fail", {}),
        ("a/failing", "a/failing", {}),
        ("a/fail/b", "a/fail/b", {}),
        ("a/fail", "a", {"fate": "fails"}),
        ("a/b/stall", "a/b", {"fate": "stalls"}),
        ("a/nofinish", "a", {"fate": "never_finishes"}),
        ("a/untrained", "a", {"untrained": True}),
        ("a/nan", "a", {"nan": True}),
        ("a/big-12", "a", {"extra_mebibytes": 12}),
        ("a/big-x", "a/big-x", {}),
        ("a/big-", "a/big-", {}),
        ("a/big-1234567", "a/big-1234567", {}),
        ("a/12", "a/12", {}),
        ("a/nan/big-3", "a", {"nan": True, "extra_mebibytes": 3}),
    ],
)
def test_wishes_follow_from_the_end_of_the_model_name(name: str, model: str, expected: dict[str, Any]) -> None:
    assert wishes(name) == Wishes(model_name=model, **expected)


def test_name_of_two_megabytes_of_endings_is_read_in_one_go() -> None:
    # Reading it anew for each ending took minutes, in which the emulator answered nobody.
    assert wishes("a" + "/fail" * 400_000) == Wishes(model_name="a", fate="fails")
