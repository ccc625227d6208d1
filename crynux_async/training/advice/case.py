"""What the rules look at: a config, what becomes of it, and what is known of its data set."""

from typing import TYPE_CHECKING

import attrs

from crynux_async.secret import mask_address
from crynux_async.training.config import EffectiveConfig, FineTuneConfig
from crynux_async.training.service import ServiceFacts
from crynux_async.training.simulation import Simulation, simulate_sent
from crynux_async.values import Value

if TYPE_CHECKING:
    from crynux_async.datasets.report import DatasetReport


@attrs.frozen(kw_only=True)
class Case(Value):
    """A config to be judged.

    Attributes:
        effective: What becomes of it.
        simulation: What the job will do.
        report: What is known of its data set, or None.
        service: Who runs the job.
    """

    effective: EffectiveConfig
    simulation: Simulation
    report: "DatasetReport | None"
    service: ServiceFacts

    @property
    def config(self) -> FineTuneConfig:
        """What is sent."""
        return self.effective.config

    @property
    def images(self) -> int | None:
        """Images of the data set, or None when they are not known."""
        return self.simulation.images


def make_case(
    config: FineTuneConfig, images: int | None, report: "DatasetReport | None", service: ServiceFacts
) -> Case:
    """Work out everything that the rules look at: the config goes down the whole way, once."""
    effective = config.effective(images, service.mapping)
    simulation = simulate_sent(effective.config, images, service)
    return Case(effective=effective, simulation=simulation, report=report, service=service)


def in_words(seconds: float) -> str:
    """Return a duration as people write it: 42 s, 3 min, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def shown(value: object) -> str:
    """Return the beginning of a value as it stands in a message."""
    text = repr(mask_address(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
