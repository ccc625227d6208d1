import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crynux_async.archive import HealthCode, LoraArchive
from crynux_async.errors import ArchiveError
from tests.archive_files import (
    ALL_FOUR,
    DOWN,
    WEIGHTS,
    Asked,
    Raw,
    f32,
    lora_bytes,
    members,
    of_kinds,
    open_with,
    pair,
    raw_zip,
    write_zip,
)


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., LoraArchive]:
    return functools.partial(open_with, tmp_path)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_health_with_every_up_zero_says_untrained(opened: Callable[..., LoraArchive], dtype: str, zero: float) -> None:
    health = opened(pair(dtype=dtype, up=[zero] * 4)).health()
    assert health.codes == {HealthCode.UNTRAINED}
    assert "changes nothing" in str(health)


def test_health_with_one_up_not_zero_is_good(opened: Callable[..., LoraArchive]) -> None:
    tensors = {**pair("conv_in", up=[0.0] * 4), **pair("conv_out", up=[0, 0, 0, 1e-45])}
    assert opened(tensors).health().ok


def test_health_with_every_down_zero_is_not_untrained(opened: Callable[..., LoraArchive]) -> None:
    assert opened(pair(down=[0.0] * 6)).health().ok


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize(("number", "code"), [(math.nan, HealthCode.NAN), (-math.inf, HealthCode.INF)])
def test_health_with_one_bad_number_names_its_tensor(
    opened: Callable[..., LoraArchive], dtype: str, number: float, code: HealthCode
) -> None:
    (problem,) = opened(pair(dtype=dtype, down=(1, 2, 3, 4, 5, number))).health().problems
    assert problem.code == code
    assert problem.message.startswith("1 weights are")
    assert DOWN in problem.message


def test_health_of_a_diverged_training_counts_every_nan(tmp_path: Path) -> None:
    columns = 2**18
    nan = f32(math.nan)
    tensors = {
        "unet.conv_in.lora_A.weight": ("F32", [4, columns], nan * 4 * columns),
        "unet.conv_in.lora_B.weight": ("F32", [1, 4], nan * 4),
    }
    path = write_zip(tmp_path / "nan.zip", {**members(tensors), "optimizer.bin": nan * 8 * columns})
    assert path.stat().st_size * 200 < 12 * 4 * columns
    (problem,) = LoraArchive.open(path).health().problems
    assert problem.code == HealthCode.NAN
    assert problem.message.startswith(f"{4 * columns + 4} weights are not a number, in 2 tensors")


def test_health_as_asked_is_good(opened: Callable[..., LoraArchive]) -> None:
    health = opened(of_kinds(*ALL_FOUR)).health(Asked())
    assert health.ok
    assert str(health) == "healthy"


def test_health_with_another_rank_says_both(opened: Callable[..., LoraArchive]) -> None:
    (problem,) = opened(of_kinds(*ALL_FOUR)).health(Asked(rank=8)).problems
    assert problem.code == HealthCode.RANK
    assert problem.message == "rank 8 was asked for and 2 is there"


@pytest.mark.parametrize(
    ("kinds", "asked", "codes"),
    [
        (("to_k",), ("to_k", "proj_nothing"), {HealthCode.MODULES_MISSING}),
        (("to_k", "to_q"), ("to_k",), {HealthCode.MODULES_EXTRA}),
        (("to_q",), ("to_k",), {HealthCode.MODULES_EXTRA, HealthCode.MODULES_MISSING}),
        (("to_k",), ("attn1.to_k",), set()),
        (("to_k",), ("o_k",), {HealthCode.MODULES_EXTRA, HealthCode.MODULES_MISSING}),
        (("to_k", "to_q"), "all-linear", set()),
        (("to_k", "to_q"), r".*\.to_[kq]", set()),
        (("to_k", "to_q"), r".*\.to_k", {HealthCode.MODULES_EXTRA}),
        (("to_k",), r"to_k", {HealthCode.MODULES_EXTRA, HealthCode.MODULES_MISSING}),
        (("to_k",), r"(", {HealthCode.MODULES_EXTRA, HealthCode.MODULES_MISSING}),
    ],
)
def test_health_compares_modules_as_the_nodes_choose_them(
    opened: Callable[..., LoraArchive], kinds: Any, asked: Any, codes: set[HealthCode]
) -> None:
    assert opened(of_kinds(*kinds)).health(Asked(target_modules=asked)).codes == codes


@pytest.mark.parametrize(
    ("options", "steps", "codes"),
    [
        ({"step": "9"}, 10, {HealthCode.STEPS_SHORT}),
        ({"step": "11"}, 10, set()),
        ({"step": "1"}, None, set()),
        ({"step": None}, 10, {HealthCode.STEPS_UNKNOWN}),
        ({"finished": False}, 10, {HealthCode.UNFINISHED}),
    ],
)
def test_health_compares_steps(opened: Callable[..., LoraArchive], options: Any, steps: Any, codes: Any) -> None:
    assert opened(of_kinds(*ALL_FOUR), **options).health(Asked(max_train_steps=steps)).codes == codes


def test_health_of_damaged_weights_raises_archive_error(tmp_path: Path) -> None:
    path = tmp_path / "damaged.zip"
    path.write_bytes(raw_zip(Raw(name=WEIGHTS.encode(), data=lora_bytes(pair()), crc=1)))
    with pytest.raises(ArchiveError, match="CRC-32"):
        LoraArchive.open(path).health()
