"""What will keep a training waiting is said before it is sent."""

import asyncio
import logging
from collections.abc import AsyncIterator

import attrs
import pytest

from crynux_async.backends.relay.answers import AnswerError, LoadedModel, NodeNumbers, read_count, read_node_numbers
from crynux_async.backends.relay.backend import RelayBackend
from crynux_async.backends.relay.outlook import Network
from crynux_async.emulator.relay import RelayEmulator
from tests.relay_lab import MODEL
from tests.relay_sessions import make_config, relay_with_money
from tests.relay_tries import ORDER, created, driven, relay_backend

WELL = Network(models=[LoadedModel(name=MODEL, in_memory=0, on_disk=2)], nodes=NodeNumbers(active=5, busy=2), waiting=3)


@pytest.fixture
async def relay() -> AsyncIterator[RelayEmulator]:
    async with relay_with_money() as relay:
        yield relay


@pytest.fixture
async def backend(relay: RelayEmulator) -> AsyncIterator[RelayBackend]:
    backend = relay_backend(relay)
    yield backend
    await backend.close()


def test_network_with_free_nodes_and_the_model_surprises_nobody() -> None:
    assert list(WELL.surprises(MODEL.upper(), 600)) == []


@pytest.mark.parametrize(
    ("models", "word"),
    [([], "minutes to half an hour"), ([LoadedModel(name=MODEL, in_memory=0, on_disk=0)], "minutes to half an hour")],
)
def test_model_that_no_node_has_is_said_with_the_longest_wait(models: list[LoadedModel], word: str) -> None:
    (said,) = attrs.evolve(WELL, models=models).surprises(MODEL, 1620)
    assert word in said
    assert "30 min at most" in said  # 180 + 1620 seconds


def test_network_without_nodes_says_that_the_money_comes_back() -> None:
    (said,) = attrs.evolve(WELL, nodes=NodeNumbers(active=0, busy=0), waiting=0).surprises(MODEL, 600)
    assert "no active node" in said
    assert "refunded" in said


def test_queue_that_is_longer_than_the_free_nodes_is_said() -> None:
    (said,) = attrs.evolve(WELL, waiting=4).surprises(MODEL, 600)
    assert said == "waiting: 4 tasks; busy: 2 of 5 nodes"


def test_answers_that_are_none_are_refused() -> None:
    assert read_node_numbers(b'{"message":"success","data":{"all_nodes":9,"busy_nodes":1,"active_nodes":3}}') == (
        NodeNumbers(active=3, busy=1)
    )
    assert read_count(b'{"message":"success","data":7}') == 7
    with pytest.raises(AnswerError, match="busy_nodes"):
        read_node_numbers(b'{"message":"success","data":{"active_nodes":3}}')
    with pytest.raises(AnswerError):
        read_count(b'{"message":"success","data":"7"}')


async def test_first_create_of_a_model_that_no_node_has_is_warned_of_once(
    backend: RelayBackend, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.sleep(600)  # the relay counts its nodes now and then
    with caplog.at_level(logging.WARNING, "crynux_async.backends.relay.outlook"):
        await created(backend)
        await created(backend, attrs.evolve(ORDER, try_number=2))
    assert [MODEL in record.message for record in caplog.records] == [True]


async def test_model_that_a_task_has_brought_is_no_surprise_any_more(backend: RelayBackend) -> None:
    await driven(backend, await created(backend))
    await asyncio.sleep(61)
    assert await backend.outlook(make_config()) == []


async def test_network_is_asked_about_once_a_minute(relay: RelayEmulator, backend: RelayBackend) -> None:
    for _ in range(3):
        await backend.outlook(make_config())
    assert sum(record.path == "/v2/loaded-models" for record in relay.requests) == 1


async def test_network_that_cannot_be_asked_about_keeps_no_job_from_being_sent(
    relay: RelayEmulator, backend: RelayBackend
) -> None:
    relay.add_fault("html_502", on="network", count=None)
    task = await created(backend)
    assert task.task_id in relay.tasks
