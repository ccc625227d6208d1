"""Learning rates, compared with those of the library that nodes run: diffusers' get_scheduler on torch's AdamW."""

import math
import warnings
from typing import Any

import pytest

from crynux_async.training.config import FineTuneConfig
from crynux_async.training.simulation import simulate

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch: Any = pytest.importorskip("torch")
    optimization: Any = pytest.importorskip("diffusers.optimization")

pytestmark = pytest.mark.filterwarnings("ignore")

SCHEDULERS = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup")


def make(**changes: Any) -> FineTuneConfig:
    return FineTuneConfig(**{"model_name": "m", "dataset_url": "https://a.example/d.zip", "seed": 7, **changes})


def rates_of_the_library(config: FineTuneConfig, peak: float, total: int, steps: int) -> list[float]:
    """The learning rate of each optimizer step. Source: stable-diffusion-task finetune_lora.py (one process)."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = optimization.get_scheduler(
        config.lr_scheduler, optimizer=optimizer, num_warmup_steps=config.lr_warmup_steps, num_training_steps=total
    )
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("warmup", [1, 7, 60, 200, 500])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_learning_rate_of_every_step_is_the_librarys(scheduler: str, warmup: int) -> None:
    config = make(lr_scheduler=scheduler, lr_warmup_steps=warmup, max_train_steps=120, learning_rate=3e-4)
    schedule = simulate(config).schedule
    assert schedule is not None
    rates = [schedule.at(step) for step in range(1, 151)]  # a job may run beyond its length
    assert rates == pytest.approx(rates_of_the_library(config, 3e-4, 120, 150), rel=1e-12, abs=1e-30)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_learning_rate_of_a_job_in_rounds_goes_on_in_the_next_round(scheduler: str) -> None:
    config = make(
        lr_scheduler=scheduler, num_train_steps=5, max_train_steps=40, scale_lr=True, gradient_accumulation_steps=2
    ).effective()
    simulation = simulate(config.config, 16)
    assert len(simulation.rounds) > 1
    assert simulation.schedule is not None
    assert simulation.steps is not None
    rates = rates_of_the_library(config.config, 2e-4, 40, simulation.steps)
    assert simulation.final_learning_rate == pytest.approx(rates[-1], rel=1e-12, abs=1e-30)
    for item in simulation.rounds:
        assert simulation.schedule.at(item.first_step) == pytest.approx(rates[item.first_step - 1], rel=1e-12)


def test_polynomial_warm_up_as_long_as_the_training_stops_the_library() -> None:
    config = make(lr_scheduler="polynomial", lr_warmup_steps=120, max_train_steps=120)
    with pytest.raises(ZeroDivisionError):
        rates_of_the_library(config, 1e-4, 120, 120)
    schedule = simulate(config).schedule
    assert schedule is not None
    assert math.isnan(schedule.at(121))


def test_polynomial_that_begins_at_its_end_stops_the_library() -> None:
    with pytest.raises(ValueError, match="lr_end"):
        rates_of_the_library(make(lr_scheduler="polynomial", lr_warmup_steps=1), 1e-7, 120, 1)
