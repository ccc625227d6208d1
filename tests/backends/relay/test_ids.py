"""Names of tasks: the same for ever, and known again by their owner alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crynux_async.backends.relay.ids import GROUP_SIZE, TaskNames
from crynux_async.secret import Secret
from crynux_async.signing import Wallet
from tests.relay_lab import CREATOR, Ids

NAMES = TaskNames(CREATOR)
MEMBERS = st.tuples(st.text(), st.integers(1, 10**6), st.integers(0, 30))


@given(MEMBERS)
def test_names_are_the_same_whenever_they_are_asked_for(member: tuple[str, int, int]) -> None:
    assert TaskNames(CREATOR).ids(*member) == NAMES.ids(*member)


@given(MEMBERS)
def test_commitment_is_the_hash_of_task_id_and_nonce(member: tuple[str, int, int]) -> None:
    ids = NAMES.ids(*member)
    assert Ids(ids.task_id, ids.nonce).commitment == ids.commitment


@given(MEMBERS, MEMBERS)
def test_two_members_share_at_most_the_task_id_of_their_group(
    one: tuple[str, int, int], other: tuple[str, int, int]
) -> None:
    first, second = NAMES.ids(*one), NAMES.ids(*other)
    assert (first.commitment == second.commitment) is (one == other)
    same_group = one[:2] == other[:2] and one[2] // GROUP_SIZE == other[2] // GROUP_SIZE
    assert (first.task_id == second.task_id) is same_group


def test_parts_of_a_name_cannot_be_taken_for_one_another() -> None:
    assert NAMES.ids("1", 11, 0).commitment != NAMES.ids("11", 1, 0).commitment


@given(MEMBERS)
def test_owner_knows_a_task_again_by_nonce_and_commitment(member: tuple[str, int, int]) -> None:
    ids = NAMES.ids(*member)
    upper = ids.nonce.replace("0x", "").upper()
    assert NAMES.recognised(ids.commitment, ids.nonce) == ids
    assert NAMES.recognised(ids.commitment.upper().replace("0X", "0x"), f"0x{upper}") == ids
    assert ids.place == member[2] % GROUP_SIZE


@pytest.mark.parametrize(
    ("commitment", "nonce"),
    [
        (NAMES.ids("job", 1, 1).commitment, NAMES.ids("job", 1, 0).nonce),
        ("0x" + "ab" * 32, NAMES.ids("job", 1, 0).nonce),
        (NAMES.ids("job", 1, 0).commitment, "0x" + "ab" * 32),
        (NAMES.ids("job", 1, 0).commitment, NAMES.ids("job", 1, 0).nonce[:-2]),
        (NAMES.ids("job", 1, 0).commitment, "0x" + "zz" * 32),
        (NAMES.ids("job", 1, 0).commitment, ""),
    ],
    ids=["another's nonce", "foreign commitment", "foreign nonce", "short nonce", "no digits", "no nonce"],
)
def test_task_of_another_program_is_not_taken_for_ones_own(commitment: str, nonce: str) -> None:
    assert NAMES.recognised(commitment, nonce) is None


def test_other_wallet_recognises_nothing() -> None:
    ids = NAMES.ids("job", 1, 0)
    other = TaskNames(Wallet(Secret("33" * 32)))
    assert other.recognised(ids.commitment, ids.nonce) is None
    assert other.ids("job", 1, 0).commitment != ids.commitment


def test_task_id_is_in_no_text() -> None:
    ids = NAMES.ids("job", 1, 0)
    assert ids.task_id not in repr(ids)
    assert ids.task_id[2:] not in f"{ids}{NAMES!r}"
