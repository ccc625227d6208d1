"""A session that only reads a ledger: it knows what its service does, whichever that is, and asks it for nothing."""

import pytest

from crynux_async import Session, UsageError
from crynux_async.backends.base import Order, Task
from crynux_async.backends.reading import ReadBackend, facts_behind
from crynux_async.backends.relay.arguments import RELAY_FACTS
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.states import JobState
from crynux_async.training.service import BRIDGE_FACTS
from tests.fake_backend import FakeBackend, make_config

WALLET = "0x00000000000000000000000000000000000000aa"


def test_credential_tells_whose_rules_hold() -> None:
    assert (facts_behind(WALLET), facts_behind("c0ffee")) == (RELAY_FACTS, BRIDGE_FACTS)


def test_config_is_used_as_the_service_uses_it() -> None:
    config = make_config(adam_weight_decay=0.0)
    relay, bridge = (ReadBackend(name="a", facts=facts) for facts in (RELAY_FACTS, BRIDGE_FACTS))
    assert (relay.effective(config).config.adam_weight_decay, bridge.effective(config).config.adam_weight_decay) == (
        0.0,
        1e-12,
    )


async def test_jobs_of_a_service_that_has_no_address_are_shown_and_it_is_not_asked() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with Session(backend=backend, ledger=ledger) as session:
        await (await session.submit(make_config())).wait()
    asked = backend.polls
    async with Session(
        backend=ReadBackend(name=backend.name, facts=backend.facts), ledger=ledger, follow=False
    ) as reads:
        (job,) = await reads.history()
        assert (job.state, reads.service) == (JobState.SUCCEEDED, "fake")
    assert backend.polls == asked


async def test_whatever_needs_the_service_is_refused_with_what_to_do() -> None:
    backend = ReadBackend(name="https://relay.example.com", facts=RELAY_FACTS)
    with pytest.raises(UsageError, match=r"only reads what the ledger has of https://relay\.example\.com"):
        await backend.look(Task(task_id="1"))
    with pytest.raises(UsageError, match="only reads"):
        await backend.create("")
    with pytest.raises(UsageError, match="only reads"):
        backend.open_result(Task(task_id="1"))
    with pytest.raises(UsageError, match="only reads"):
        backend.intend(Order(job_id="j1", try_number=1, config=make_config()))
