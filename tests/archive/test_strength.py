"""How strong a LoRA is, against fresh layers of its shapes."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from crynux_async.archive import HealthCode, LoraArchive, Verdict
from crynux_async.archive.strength import fresh_norm, judge_ratio
from tests.archive_files import Asked, open_with, pair

np = pytest.importorskip("numpy")


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., LoraArchive]:
    return partial(open_with, tmp_path)


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (0.0, "untrained"),
        (1e-9, "faint"),
        (0.99e-3, "faint"),
        (1e-3, "usual"),
        (0.199, "usual"),
        (0.2, "strong"),
        (0.99, "strong"),
        (1.0, "diverged"),
        (1e9, "diverged"),
        (math.nan, "diverged"),
        (math.inf, "diverged"),
    ],
)
def test_verdict_follows_from_the_ratio(ratio: float, verdict: Verdict) -> None:
    assert judge_ratio(ratio) == verdict


@pytest.mark.parametrize(("outputs", "inputs", "kernel"), [(320, 768, ()), (640, 320, (3, 3)), (1280, 1280, (1, 1))])
def test_fresh_layer_has_the_norm_that_pytorch_gives_it(
    opened: Callable[..., LoraArchive], outputs: int, inputs: int, kernel: tuple[int, ...]
) -> None:
    down = [0.0] * (inputs * math.prod(kernel))
    (module,) = opened(pair("conv_in", rank=1, down=down, up=[0.0] * outputs, kernel=kernel)).modules.values()
    # torch.nn: kaiming_uniform_ with a = sqrt(5) is U(-k, k) with k = 1 / sqrt(fan_in).
    bound = 1 / math.sqrt(inputs * math.prod(kernel))
    weights = np.random.default_rng(1).uniform(-bound, bound, (outputs, inputs, *kernel))
    assert fresh_norm(module) == pytest.approx(float(np.linalg.norm(weights)), rel=0.01)


def test_ratio_is_that_of_all_modules_together(opened: Callable[..., LoraArchive]) -> None:
    # B A of conv_in is [[3, 4]], of norm 5; that of conv_out is [[0, 0], [0, 0]]; fresh norms are sqrt(1/3), sqrt(2/3).
    archive = opened(
        {**pair("conv_in", rank=1, down=(3, 4), up=(1,)), **pair("conv_out", rank=1, down=(3, 4), up=(0, 0))}
    )
    strength = archive.strength()
    assert dict(strength.ratios) == pytest.approx({"conv_in": 5 / math.sqrt(1 / 3), "conv_out": 0.0})
    assert strength.ratio == pytest.approx(5.0)
    assert strength.verdict == "diverged"


def test_lora_that_diverged_and_is_finite_is_not_healthy(opened: Callable[..., LoraArchive]) -> None:
    health = opened(pair(up=(1.0, 2.0, -3.0, 0.125))).health()
    assert health.codes == {HealthCode.DIVERGED}
    assert health.strength is not None
    assert health.strength.verdict == "diverged"
    assert "lower learning_rate" in health.strength.action


@pytest.mark.parametrize(("factor", "verdict"), [(1e-5, "faint"), (1e-3, "usual"), (2**-6, "strong")])
def test_lora_that_is_faint_or_strong_is_healthy_and_said_to_be_so(
    opened: Callable[..., LoraArchive], factor: float, verdict: Verdict
) -> None:
    health = opened(pair(up=[factor * number for number in (1.0, 2.0, -3.0, 0.125)])).health()
    assert health.ok
    assert health.strength is not None
    assert health.strength.verdict == verdict


def test_untrained_lora_has_no_strength(opened: Callable[..., LoraArchive]) -> None:
    health = opened(pair(up=(0, 0, 0, 0))).health()
    assert health.codes == {HealthCode.UNTRAINED}
    assert health.strength is not None
    assert health.strength.verdict == "untrained"


def test_nan_is_said_to_be_nan_alone(opened: Callable[..., LoraArchive]) -> None:
    assert opened(pair(up=(math.nan, 0, 0, 0))).health().codes == {HealthCode.NAN}


class AskedOf(Asked):
    model_name = "runwayml/stable-diffusion-v1-5"


def to_k(context: int) -> dict[str, tuple[str, list[int], bytes]]:
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    return pair(name, down=[1e-3] * 2 * context, up=[1e-2] * 8)


@pytest.mark.parametrize(("context", "codes"), [(1024, {HealthCode.FAMILY}), (768, set()), (8, set())])
def test_widths_of_another_family_contradict_the_config(
    opened: Callable[..., LoraArchive], context: int, codes: set[HealthCode]
) -> None:
    assert opened(to_k(context)).health(AskedOf(target_modules=("to_k",))).codes == codes
