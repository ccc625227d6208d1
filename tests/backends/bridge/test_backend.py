"""The bridge as a backend: text ids, payloads, looks, preparation of keys, and what it costs."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from crynux_async.backends.base import Look, Order, Seen, Task
from crynux_async.backends.bridge.backend import BridgeBackend
from crynux_async.emulator import Emulator
from crynux_async.errors import AuthError, ConfigError, UsageError
from crynux_async.settings import Settings
from crynux_async.training.config import FineTuneConfig

CONFIG = FineTuneConfig(
    model_name="crynux-ai/stable-diffusion-v1-5", dataset_name="a/b", max_train_steps=100, lr_warmup_steps=0, seed=1
)
ORDER = Order(job_id="j1", try_number=1, config=CONFIG)


class CountingTurnstile:
    """Gives tokens and counts them."""

    def __init__(self) -> None:
        self.tokens = 0

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[None]:
        self.tokens += 1
        yield


@asynccontextmanager
async def before(emulator: Emulator, api_key: str, **settings: Any) -> AsyncIterator[BridgeBackend]:
    backend = BridgeBackend(Settings(api_key=api_key, base_url=emulator.url, trust_env=False, **settings))
    try:
        yield backend
    finally:
        await backend.close()


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(unet="tiny", durable=False) as running:
        yield running


@pytest.fixture
async def backend(emulator: Emulator) -> AsyncIterator[BridgeBackend]:
    async with before(emulator, emulator.new_key()) as made:
        yield made


async def test_name_is_the_base_url_word_for_word(emulator: Emulator, backend: BridgeBackend) -> None:
    assert backend.name == emulator.url


@pytest.mark.parametrize(("given", "normal"), [(17, "17"), ("17", "17"), (" 017 ", "17"), (2**63 - 1, str(2**63 - 1))])
async def test_task_id_is_a_number_as_text(backend: BridgeBackend, given: str | int, normal: str) -> None:
    assert backend.normal_task_id(given) == normal


@pytest.mark.parametrize("given", [0, -1, "", "abc", "1.0", "+1", 2**63, True, "9" * 100, "١٧"])
async def test_task_id_that_no_bridge_can_have_given_is_refused(backend: BridgeBackend, given: Any) -> None:
    with pytest.raises(UsageError) as caught:
        backend.normal_task_id(given)
    assert caught.value.field == "task_id"


async def test_payload_is_what_is_sent(emulator: Emulator, backend: BridgeBackend) -> None:
    payload = backend.intend(ORDER)
    assert json.loads(payload)["lr_warmup_steps"] == 1  # a zero would become 500 at the bridge
    created = await backend.create(payload)
    assert emulator.journal[-1].task_id == int(created.task_id)


async def test_config_that_is_larger_than_the_bridge_takes_names_the_field(backend: BridgeBackend) -> None:
    config = CONFIG.evolve(validation_prompt="x" * 2 * 1024 * 1024)
    with pytest.raises(ConfigError) as caught:
        backend.intend(Order(job_id="j1", try_number=1, config=config))
    assert caught.value.field == "validation_prompt"


@pytest.mark.parametrize(
    ("word", "look"),
    [
        ("running", Look(seen=Seen.RUNNING)),
        ("success", Look(seen=Seen.SUCCEEDED)),
        ("failed", Look(seen=Seen.FAILED)),
        ("paused", Look(seen=Seen.RUNNING, stage="paused")),
    ],
)
async def test_look_translates_the_bridges_word(
    emulator: Emulator, backend: BridgeBackend, word: str, look: Look
) -> None:
    created = await backend.create(backend.intend(ORDER))
    emulator.add_fault("word", on="status", text=word)
    assert await backend.look(Task(task_id=created.task_id)) == look


async def test_key_that_was_never_used_is_prepared_with_one_token(emulator: Emulator) -> None:
    turnstile = CountingTurnstile()
    async with before(emulator, emulator.new_key(primed=False)) as backend:
        limit = await backend.prepare(turnstile)
        again = await backend.prepare(turnstile)
    assert (limit, again, turnstile.tokens) == (1.0, None, 1)


async def test_key_is_not_prepared_where_the_settings_forbid_it(emulator: Emulator) -> None:
    turnstile = CountingTurnstile()
    async with before(emulator, emulator.new_key(primed=False), prime_key=False) as backend:
        assert await backend.prepare(turnstile) is None
    assert (turnstile.tokens, len(emulator.requests)) == (0, 0)


async def test_wrong_key_is_told_while_preparing(emulator: Emulator) -> None:
    async with before(emulator, "A" * 43 + "=") as backend:
        with pytest.raises(AuthError):
            await backend.prepare(CountingTurnstile())


@pytest.mark.parametrize(
    ("length", "cnx"),
    [
        ({"max_train_steps": 100}, 15),
        ({"max_train_steps": 100, "num_train_steps": 50}, 30),
        ({"max_train_epochs": 2, "num_train_epochs": 1}, 30),
        ({"max_train_epochs": 2, "num_train_steps": 50}, None),  # the data set decides
    ],
)
async def test_price_is_a_fee_for_every_round(backend: BridgeBackend, length: dict[str, int], cnx: int | None) -> None:
    config = FineTuneConfig(model_name="crynux-ai/stable-diffusion-v1-5", dataset_name="a/b", seed=1, **length)
    assert backend.price(config) == (None if cnx is None else cnx * 10**18)


async def test_failed_task_of_one_round_costs_nothing(backend: BridgeBackend) -> None:
    task = Task(task_id="1", config=CONFIG)
    assert await backend.spent(task, Look(seen=Seen.FAILED)) == 0
    assert await backend.spent(task, Look(seen=Seen.SUCCEEDED)) == 15 * 10**18
    several = Task(task_id="1", config=CONFIG.evolve(num_train_steps=50))
    assert await backend.spent(several, Look(seen=Seen.FAILED)) is None
