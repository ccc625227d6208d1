"""What is said of many configs before they are sent."""

import asyncio
import threading
from typing import Any

import attrs
import pytest

from crynux_async import FineTuneConfig
from crynux_async.errors import ConfigError
from crynux_async.supervision.adviser import Adviser
from crynux_async.training import advice
from crynux_async.training.service import BRIDGE_FACTS, ServiceFacts

ENDLESS = r"(\w+\.?)+\.to_kk"


def make(**changes: Any) -> FineTuneConfig:
    plain: dict[str, Any] = {"model_name": "m", "dataset_url": "https://a.example/cats.zip", "max_train_steps": 9}
    return FineTuneConfig(**plain | changes)


async def test_check_all_expression_that_takes_a_process_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    somebody_else = threading.Event()
    had_a_turn: list[bool] = []

    def check(_: FineTuneConfig, *, service: ServiceFacts) -> list[advice.Advice]:
        had_a_turn.append(somebody_else.wait(20))
        return []

    monkeypatch.setattr(advice, "check", check)
    asyncio.get_running_loop().call_soon(somebody_else.set)
    await Adviser(BRIDGE_FACTS).check_all([make(target_modules=ENDLESS)], [""], force=False)
    assert had_a_turn == [True]


async def test_check_all_names_the_config_whose_expression_never_ends() -> None:
    configs = [make(timeout=3600), make(timeout=3600, target_modules=ENDLESS)]
    with pytest.raises(ConfigError, match="1 of 2 configs cannot work") as info:
        await Adviser(BRIDGE_FACTS).check_all(configs, ["a", "b"], force=False)
    assert [problem.field for problem in info.value.problems] == ["configs[1] 'b' target_modules"]


async def test_check_all_where_a_job_is_one_round_promises_no_more_than_force_can_send() -> None:
    adviser = Adviser(attrs.evolve(BRIDGE_FACTS, takes_rounds=False))
    with pytest.raises(ConfigError, match="force=True sends them where each is one round anyway"):
        await adviser.check_all([make(max_train_steps=200, num_train_steps=100)], [""], force=False)


async def test_what_cannot_even_be_sent_is_refused_with_force_and_what_can_be_is_not() -> None:
    adviser = Adviser(attrs.evolve(BRIDGE_FACTS, takes_rounds=False))
    rounds, hopeless = make(max_train_steps=200, num_train_steps=100), make(timeout=1)
    adviser.check(hopeless, force=True)
    with pytest.raises(ConfigError, match="not even with force=True") as info:
        adviser.check(rounds, force=True)
    (problem,) = info.value.problems
    assert problem.field == "num_train_steps"
    assert "Leave num_train_steps and num_train_epochs out" in problem.message
    with pytest.raises(ConfigError, match="1 of 2 configs cannot be sent, not even with force=True; none is queued"):
        await adviser.check_all([hopeless, rounds], ["", ""], force=True)
    Adviser(BRIDGE_FACTS).check(rounds, force=True)
