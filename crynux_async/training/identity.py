"""What makes two trainings the same: values that train alike, brought into one form.

Not brought together is what only a base model or a data set could tell, and a pattern is not compared with a list.

Source: diffusers optimization.py (every warm-up is a line through zero); peft tuners_utils.check_target_module_exists.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from crynux_async.training.effective import used_learning_rate
from crynux_async.training.fields import ConfigFields
from crynux_async.training.schedules import POLYNOMIAL_END
from crynux_async.training.unet_modules import ALL_LINEAR, shortest_entries

_SAME_DIGITS: Final = 15  # a product of three numbers and the number itself differ behind them


def in_one_form(config: ConfigFields) -> Mapping[str, object]:
    """Return the fields that other values could stand in for, with the values that stand for all of them.

    Args:
        config: What is sent.
    """
    # It is in the learning rate.
    return {"scale_lr": None, "target_modules": _modules(config.target_modules), **_rates(config)}


def _modules(target_modules: Sequence[str] | str) -> object:
    if not isinstance(target_modules, str):
        return list(shortest_entries(tuple(target_modules)))
    return ALL_LINEAR if target_modules.lower() == ALL_LINEAR else target_modules


def _rates(config: ConfigFields) -> Mapping[str, object]:
    rate = used_learning_rate(config)
    if rate != config.learning_rate:
        rate = _rounded(rate)
    steps = config.max_train_steps
    if steps is None or not _never_leaves_its_warm_up(config, steps, rate):
        return {"learning_rate": rate}
    # The rate of each step is the peak times the step, by the warm-up: whatever would follow, and with any peak.
    return {
        "learning_rate": _rounded(rate * steps / config.lr_warmup_steps),
        "lr_scheduler": "constant_with_warmup",
        "lr_warmup_steps": steps,
    }


def _never_leaves_its_warm_up(config: ConfigFields, steps: int, rate: float) -> bool:
    is_one_round = config.num_train_steps is not None and config.num_train_steps >= steps
    if not is_one_round or config.lr_scheduler == "constant":
        return False
    if config.lr_scheduler == "polynomial":  # it cannot end where its warm-up does, and must fall
        return config.lr_warmup_steps > steps and rate > POLYNOMIAL_END
    return config.lr_warmup_steps >= steps


def _rounded(number: float) -> float:
    return float(f"{number:.{_SAME_DIGITS}g}")
