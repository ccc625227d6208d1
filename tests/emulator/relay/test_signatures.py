"""Who signed a request to the newer calls, and who logged in."""

import pytest

from crynux_async.emulator.relay.signatures import login_message, login_signer, strict_request_signer
from crynux_async.emulator.signatures import request_signer
from tests.relay_lab import CREATOR

NOW = 1_700_000_000
FIELDS = {"task_id_commitment": "0xabc"}


def test_version_two_wants_the_prefix() -> None:
    without = CREATOR.sign(FIELDS, NOW)[2:]
    assert strict_request_signer(FIELDS, NOW, "0x" + without, now=NOW) == CREATOR.address
    assert strict_request_signer(FIELDS, NOW, "??" + without, now=NOW) is None
    assert request_signer(FIELDS, NOW, "??" + without, now=NOW) == CREATOR.address


def test_version_two_does_not_crash_on_one_character() -> None:
    assert strict_request_signer(FIELDS, NOW, "x", now=NOW) is None


@pytest.mark.parametrize(("age", "is_good"), [(120, True), (121, False), (-60, True), (-61, False)])
def test_login_holds_for_two_minutes(age: int, is_good: bool) -> None:
    signature = CREATOR.sign_personal(login_message(CREATOR.address, NOW - age))
    expected = CREATOR.address if is_good else None
    assert login_signer(CREATOR.address, NOW - age, signature, now=NOW) == expected


def test_login_takes_both_ways_of_writing_the_recovery_id() -> None:
    signature = CREATOR.sign_personal(login_message(CREATOR.address, NOW))
    plain = signature[2:-2] + f"{int(signature[-2:], 16) - 27:02x}"
    assert login_signer(CREATOR.address, NOW, plain, now=NOW) == CREATOR.address
