"""What will be trained: a config, what a service makes of it, how long it trains, and what to know before paying.

Pure: nothing here waits, and nothing knows a session. Data flows down this list, which is also the order to read it in:

- ``kinds``, ``fields``: every field with its type, bounds and default. A new field begins in ``fields``.
- ``service``: what a service cannot be sent (a warm-up of 0 becomes 1), what a round costs, how long it may take.
- ``lengths``: steps, rounds, and after how long a job is STALLED.
- ``effective``: what the training code makes of what it was sent.
- ``config``: ``FineTuneConfig``, which users hold, and ``EffectiveConfig``: asked for, sent, used.
- ``schedules``: learning rates. ``simulation``: rounds, steps, images, time, money. ``unet_modules``: what gets a LoRA;
  ``patterns``: regular expressions for that, matched in bounded time. ``json_schema``: the fields, for other programs.
- ``advice``: what to know of a config before it is paid for; its rules and their codes. That something else is sent
  than was asked for is advised by ``value_rules.judge_differences``.

The names below can be imported from here, and are loaded when they are first used.
"""

from typing import TYPE_CHECKING

from crynux_async.lazy import loader_of

if TYPE_CHECKING:
    from crynux_async.training.config import EffectiveConfig, FineTuneConfig
    from crynux_async.training.effective import EffectiveField, Replacement, Use
    from crynux_async.training.fields import (
        ConfigChanges,
        InitLoraWeights,
        LrScheduler,
        MixedPrecision,
        PredictionType,
    )
    from crynux_async.training.schedules import Schedule
    from crynux_async.training.service import (
        BRIDGE_FACTS,
        BRIDGE_MAPPING,
        OmittedField,
        ReplacedValue,
        ServiceFacts,
        ValueMapping,
    )
    from crynux_async.training.simulation import Round, Simulation, archive_bytes, simulate

_HOME_OF = {
    "BRIDGE_FACTS": "service",
    "BRIDGE_MAPPING": "service",
    "ConfigChanges": "fields",
    "EffectiveConfig": "config",
    "EffectiveField": "effective",
    "FineTuneConfig": "config",
    "InitLoraWeights": "fields",
    "LrScheduler": "fields",
    "MixedPrecision": "fields",
    "OmittedField": "service",
    "PredictionType": "fields",
    "ReplacedValue": "service",
    "Replacement": "effective",
    "Round": "simulation",
    "Schedule": "schedules",
    "ServiceFacts": "service",
    "Simulation": "simulation",
    "Use": "effective",
    "ValueMapping": "service",
    "archive_bytes": "simulation",
    "simulate": "simulation",
}

__all__ = [
    "BRIDGE_FACTS",
    "BRIDGE_MAPPING",
    "ConfigChanges",
    "EffectiveConfig",
    "EffectiveField",
    "FineTuneConfig",
    "InitLoraWeights",
    "LrScheduler",
    "MixedPrecision",
    "OmittedField",
    "PredictionType",
    "ReplacedValue",
    "Replacement",
    "Round",
    "Schedule",
    "ServiceFacts",
    "Simulation",
    "Use",
    "ValueMapping",
    "archive_bytes",
    "simulate",
]


__getattr__ = loader_of(__name__, _HOME_OF)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
