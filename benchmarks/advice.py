"""What asking for advice costs: ``python -m benchmarks.advice``.

The peer is building the same configs from their dicts, which a sweep does anyway. Everything is done in turn, several
times over, in this process; the time is its CPU time, the median of the turns.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.reporting import finish, show_table
from crynux_async.training.advice import check
from crynux_async.training.config import FineTuneConfig

CONFIGS = 10_000
TURNS = 5
IMAGES = 20
PEER = "FineTuneConfig.from_dict"
_BASE = FineTuneConfig(
    model_name="crynux-ai/stable-diffusion-v1-5",
    dataset_url="https://example.com/pictures.zip",
    lr_scheduler="cosine",
    seed=42,
    timeout=1800,
)


def main() -> None:
    """Measure and print."""
    dicts = [_BASE.evolve(**_changes(number)).to_dict() for number in range(CONFIGS)]
    configs = [FineTuneConfig.from_dict(values) for values in dicts]
    ways: dict[str, Callable[[], int]] = {
        PEER: lambda: len([FineTuneConfig.from_dict(values) for values in dicts]),
        "check(config)": lambda: sum(len(check(config)) for config in configs),
        "check(config, images)": lambda: sum(len(check(config, IMAGES)) for config in configs),
    }
    found: dict[str, int] = {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, way in ways.items():
            began = time.process_time()
            found[name] = way()
            seconds[name].append(time.process_time() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [
        (name, 1e6 * median / CONFIGS, median / medians[PEER], None if name == PEER else found[name] / CONFIGS)
        for name, median in medians.items()
    ]
    columns = ("", "µs per config", f"ratio to {PEER}", "findings per config")
    show_table(f"{CONFIGS:,} configs of a sweep, median of {TURNS} turns", columns, rows)
    finish(
        "advice",
        {
            "configs": CONFIGS,
            "microseconds_per_config": {name: round(1e6 * median / CONFIGS, 2) for name, median in medians.items()},
            "ratio_to_from_dict": {name: round(median / medians[PEER], 3) for name, median in medians.items()},
        },
    )


def _changes(number: int) -> dict[str, Any]:
    return {
        "rank": 4 + number % 60,
        "learning_rate": 1e-5 * (1 + number % 97),
        "max_train_steps": 200 + number % 400,
    }


if __name__ == "__main__":
    main()
