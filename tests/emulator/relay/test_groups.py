"""The table of groups, as it was measured with the real relay."""

import pytest

from crynux_async.emulator.relay.groups import agree, verdicts
from crynux_async.emulator.relay.tasks import AbortReason, Status, Task
from tests.relay_tasks import scored

A, B, C = "0x" + "00" * 16, "0x" + "0f" * 16, "0x" + "f0" * 16
THRESHOLD = 5
INVALIDATED, VALIDATED, REFUND = Status.END_INVALIDATED, Status.GROUP_VALIDATED, Status.END_GROUP_REFUND
INCORRECT, TIMEOUT = AbortReason.INCORRECT_RESULT, AbortReason.GROUP_TIMEOUT
STAYS = AbortReason.NONE


def members(word: str) -> list[Task]:
    """Return the members that a word describes: a, b and c are scores, e an error, - an abortion."""
    scores = {"a": A, "b": B, "c": C}
    return [
        scored(number, scores.get(letter), seconds=number, error=letter == "e")
        for number, letter in enumerate(word, start=1)
    ]


def ends(word: str, threshold: int = THRESHOLD) -> list[Status | AbortReason]:
    """Return status, or for aborted members the reason, of every member in order of creation."""
    found = sorted(verdicts(members(word), threshold), key=lambda verdict: verdict.task.sequence)
    return [verdict.reason if verdict.status is Status.END_ABORTED else verdict.status for verdict in found]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("aaa", [VALIDATED, REFUND, REFUND]),
        ("aab", [VALIDATED, REFUND, INVALIDATED]),
        ("aba", [VALIDATED, INVALIDATED, REFUND]),
        ("baa", [INVALIDATED, VALIDATED, REFUND]),
        ("abc", [INCORRECT, INCORRECT, INCORRECT]),
        ("aa-", [VALIDATED, REFUND, STAYS]),
        ("ab-", [INCORRECT, INCORRECT, STAYS]),
        ("a--", [TIMEOUT, STAYS, STAYS]),
        ("aae", [VALIDATED, REFUND, INVALIDATED]),
        ("aee", [INVALIDATED, INCORRECT, INCORRECT]),
        ("eea", [INCORRECT, INCORRECT, INVALIDATED]),
        ("ae-", [INCORRECT, INCORRECT, STAYS]),
        ("ee-", [INCORRECT, INCORRECT, STAYS]),
        ("---", [STAYS, STAYS, STAYS]),
    ],
)
def test_group_ends_as_the_table_says(word: str, expected: list[Status | AbortReason]) -> None:
    assert ends(word) == expected


def test_three_errors_cannot_be_carried_out() -> None:
    assert [verdict.is_lawful for verdict in verdicts(members("eee"), THRESHOLD)] == [True, True, False]


def test_nothing_agrees_with_the_threshold_of_the_template() -> None:
    assert ends("aaa", threshold=0) == [INCORRECT] * 3


def test_fastest_of_the_majority_wins_whoever_was_created_first() -> None:
    slow, fast, middle = scored(1, A, seconds=30), scored(2, A, seconds=10), scored(3, A, seconds=20)
    found = verdicts([slow, fast, middle], THRESHOLD)
    assert [(verdict.task.sequence, verdict.status) for verdict in found] == [(2, VALIDATED), (3, REFUND), (1, REFUND)]


def test_speed_is_worth_ten_five_and_two() -> None:
    assert [verdict.qos_score for verdict in verdicts(members("aaa"), THRESHOLD)] == [10, 5, 2]
    assert [verdict.qos_score for verdict in verdicts(members("a--"), THRESHOLD)] == [10, 0, 0]
    assert [verdict.qos_score for verdict in verdicts(members("---"), THRESHOLD)] == [None] * 3


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("0x000000000000000f", "0x0000000000000000", True),  # four bits
        ("0x000000000000001f", "0x0000000000000000", False),  # five
        ("0x0000000000000000", "0x00000000000000000000000000000000", False),
        ("0x000000000000000f000000000000000f", "0x" + "00" * 16, True),
        ("0x000000000000000f000000000000001f", "0x" + "00" * 16, False),
    ],
)
def test_images_agree_each_by_itself(one: str, other: str, expected: bool) -> None:
    assert agree(scored(1, one), scored(2, other), THRESHOLD) is expected
