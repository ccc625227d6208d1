import functools
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from crynux_async.archive import LoraArchive
from tests.archive_files import RESULT, open_with, pair


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., LoraArchive]:
    return functools.partial(open_with, tmp_path)


def test_norms_equal_those_of_the_products() -> None:
    np = pytest.importorskip("numpy")
    archive = LoraArchive.open(RESULT)
    norms = archive.norms()
    squares: dict[str, float] = {}
    for name, module in archive.modules.items():
        product = archive.tensor(module.up).astype(np.float64) @ archive.tensor(module.down)
        assert norms.modules[name] == pytest.approx(np.linalg.norm(product), rel=1e-9)
        squares[module.block] = squares.get(module.block, 0) + float(np.sum(product**2))
    assert norms.blocks == pytest.approx({block: math.sqrt(square) for block, square in squares.items()}, rel=1e-9)
    assert norms.total == pytest.approx(math.sqrt(sum(squares.values())), rel=1e-9)


def test_norm_of_a_rank_above_the_features_is_right(opened: Callable[..., LoraArchive]) -> None:
    pytest.importorskip("numpy")
    # [1 2 3] applied to [4 5 6]^T is 32.
    norms = opened(pair("conv_in", rank=3, down=(4, 5, 6), up=(1, 2, 3))).norms()
    assert norms.total == pytest.approx(32)


def test_norm_of_a_convolution_counts_every_place_of_its_kernel(opened: Callable[..., LoraArchive]) -> None:
    pytest.importorskip("numpy")
    tensors = pair("conv_in", rank=1, style="lora_A lora_B", down=[1.0] * 18, up=(2.0, 0.0), kernel=(3, 3))
    assert opened(tensors).norms().modules["conv_in"] == pytest.approx(2 * math.sqrt(18))


def test_norms_with_every_up_before_its_down_are_right(opened: Callable[..., LoraArchive]) -> None:
    pytest.importorskip("numpy")
    tensors = {**pair("conv_in", rank=1, down=(3.0,), up=(2.0,)), **pair("conv_out", rank=1, down=(1.0,), up=(8.0,))}
    norms = opened(dict(reversed(tensors.items()))).norms()
    assert norms.modules == pytest.approx({"conv_in": 6.0, "conv_out": 8.0})
    assert norms.total == pytest.approx(10.0)


def test_norm_of_weights_that_are_not_finite_is_nan(opened: Callable[..., LoraArchive]) -> None:
    pytest.importorskip("numpy")
    assert math.isnan(opened(pair(rank=1, down=(math.inf, 1), up=(1, 2))).norms().total)
