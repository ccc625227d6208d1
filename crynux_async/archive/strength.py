"""How strong a LoRA is, against the layers that it changes. Needs numpy.

Each module is measured by the norm of its update, ||(alpha / rank) B A||, over the norm that a freshly initialised
layer of its shape has. PyTorch draws the weights of a linear layer or convolution from U(-k, k) with k^2 = 1 / fan_in,
where fan_in counts the weights of one output. Their variance is 1 / (3 fan_in), so that out_features * fan_in of them
have a norm of sqrt(out_features / 3) on average. Training moves a layer of a base model away from there by a small
factor; no base model is needed to say whether an update is a thousandth of a layer, a tenth, or more than all of it.

The verdict is about all modules together: the root of the sum of their squares over that of their fresh layers.

Source: PyTorch torch/nn/modules/linear.py and conv.py (reset_parameters: kaiming_uniform_ with a = sqrt(5)), torch/nn/
init.py (calculate_gain); the bounds, and what trainings at eight learning rates give: tests/archive/test_strength.py.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import attrs

from crynux_async.archive.lora import LoraModule
from crynux_async.archive.norms import Norms

Verdict = Literal["untrained", "faint", "usual", "strong", "diverged"]
"""What a LoRA does to its base model, from nothing to destroying it."""

_FAINT = 1e-3
_STRONG = 0.2
_DIVERGED = 1.0

_WHAT_TO_DO: Mapping[Verdict, str] = MappingProxyType(
    {
        "untrained": "It changes nothing: train again, and see that max_train_steps and learning_rate are above 0.",
        "faint": "It will hardly be seen: train more steps, or with a learning_rate ten times as high.",
        "usual": "Nothing needs to be done.",
        "strong": "Where images look burnt, use it with a weight of 0.5, or train fewer steps or with a lower rate.",
        "diverged": "It drowns the base model: train again with a lower learning_rate; 1e-4 is usual.",
    }
)


@attrs.frozen(kw_only=True)
class Strength:
    """How strong a LoRA is.

    Attributes:
        verdict: "untrained" (0), "faint" (below 0.001), "usual" (below 0.2), "strong" (below 1) or "diverged".
        ratio: Norm of the update of all modules over that of fresh layers of their shapes, >= 0; NaN where a weight is
            not finite, and diverged then.
        ratios: The same for each module by itself.
    """

    verdict: Verdict
    ratio: float
    ratios: Mapping[str, float]

    @property
    def action(self) -> str:
        """What to do about it, in a sentence."""
        return _WHAT_TO_DO[self.verdict]


def measure(norms: Norms, modules: Mapping[str, LoraModule]) -> Strength:
    """Judge the norms of a LoRA.

    Args:
        norms: The norms of its updates.
        modules: Its modules, at least one.

    Returns:
        The verdict with what it rests on.
    """
    fresh = {name: fresh_norm(module) for name, module in modules.items()}
    ratios = {name: norms.modules[name] / norm for name, norm in fresh.items()}
    ratio = norms.total / math.hypot(*fresh.values())
    return Strength(verdict=judge_ratio(ratio), ratio=ratio, ratios=MappingProxyType(ratios))


def fresh_norm(module: LoraModule) -> float:
    """Return the norm that a freshly initialised layer of a module's shape has on average, > 0."""
    return math.sqrt(module.out_features / 3)


def judge_ratio(ratio: float) -> Verdict:
    """Return the verdict on an update that is ``ratio`` times as large as its fresh layer.

    Args:
        ratio: >= 0, or NaN.
    """
    if ratio == 0:
        return "untrained"
    if ratio < _FAINT:
        return "faint"
    if ratio < _STRONG:
        return "usual"
    return "strong" if ratio < _DIVERGED else "diverged"
