"""The lists of payments, refunds and deposits."""

from crynux_async.emulator.relay.accounts import Accounts, EventKind

CREATOR, OTHER = "0xC", "0xO"


def accounts() -> Accounts:
    accounts = Accounts()
    for second, (kind, address, amount) in enumerate(
        [
            (EventKind.DEPOSIT, CREATOR, 100),
            (EventKind.PAYMENT, CREATOR, 15),
            (EventKind.PAYMENT, OTHER, 0),
            (EventKind.REFUND, CREATOR, 15),
        ]
    ):
        accounts.add(kind, address, amount, f"0x{second}", now=float(second), listed=10.0 * (second + 1))
    return accounts


def test_fees_are_listed_newest_first_and_late() -> None:
    reasons = {
        now: [event.as_fee_record()["reason"] for event in accounts().fees(CREATOR, now=now)]
        for now in (19.0, 20.0, 40.0)
    }
    assert reasons == {19.0: [], 20.0: ["4-0x1"], 40.0: ["5-0x3", "4-0x1"]}


def test_deposits_are_a_list_of_their_own() -> None:
    assert [event.subject for event in accounts().deposits(CREATOR, now=10.0)] == ["0x0"]


def test_balance_is_the_sum_of_the_events() -> None:
    assert (accounts().balance(CREATOR), accounts().balance("0xnobody")) == (100, 0)
