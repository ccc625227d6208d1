"""Whatever a training leaves, in any rank, of any modules, in any precision, however it went: it is read and judged.

The checkpoint folder is written by the format's own library and packed by ``shutil.make_archive``, as a node does it.
"""

import json
import math
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crynux_async.archive import ArchiveLimits, HealthCode, LoraArchive
from crynux_async.emulator.nodes.unet import Module, Unet
from tests.archive_files import Asked

safetensors: Any = pytest.importorskip("safetensors", reason="safetensors is not installed")
np: Any = pytest.importorskip("numpy", reason="numpy is not installed")

UNET = Unet(widths=(4, 4, 8, 8), context=8)
MOST_NUMBERS = 400_000
MOST_RANK = 20_000  # nodes know no highest one

Outcome = Literal["good", "untrained", "nan", "inf"]
CODES: dict[Outcome, set[HealthCode]] = {
    "good": set(),
    "untrained": {HealthCode.UNTRAINED},
    "nan": {HealthCode.NAN},
    "inf": {HealthCode.INF},
}
KINDS = ("to_k", "to_q", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2")
KINDS += ("conv_shortcut", "time_emb_proj", "conv_in", "conv_out", "linear_1", "downsamplers.0.conv", "attn2.to_k")
DTYPES = {"no": "F32", "fp16": "F32", "bf16": "BF16"}
NAMES = {"F32": "float32", "BF16": "bfloat16"}


@attrs.frozen(kw_only=True)
class Training:
    """What was asked for, and how it went."""

    rank: int
    target_modules: tuple[str, ...] | str
    precision: Literal["no", "fp16", "bf16"]
    outcome: Outcome
    finished: bool

    @property
    def modules(self) -> tuple[Module, ...]:
        return UNET.targeted(self.target_modules)


@st.composite
def trainings(draw: st.DrawFn) -> Training:
    targets = draw(
        st.just("all-linear")
        | st.sampled_from([r".*attn2\.to_k", r"(down|up)_blocks\..*\.(conv1|to_q)", ".*(conv|linear|proj|to_).*"])
        | st.lists(st.sampled_from(KINDS), min_size=1, max_size=6, unique=True).map(tuple)
    )
    if targets == ".*(conv|linear|proj|to_).*":
        targets = "|".join(sorted(module.name.replace(".", r"\.") for module in UNET.modules))
    per_rank = sum(math.prod(shape) for module in UNET.targeted(targets) for _, shape in module.tensors(1))
    most = max(1, min(MOST_RANK, MOST_NUMBERS // per_rank))
    return Training(
        rank=draw(st.integers(1, most) | st.just(most)),
        target_modules=targets,
        precision=draw(st.sampled_from(["no", "fp16", "bf16"])),
        outcome=draw(st.sampled_from(list(CODES))),
        finished=draw(st.booleans()),
    )


def numbers(training: Training, name: str, shape: tuple[int, ...]) -> Any:
    """Numbers as this training would leave them: float32, or the upper halves of such."""
    count, dtype = math.prod(shape), DTYPES[training.precision]
    is_up = name.endswith(("lora.up.weight", "lora_B.weight"))
    values = np.random.default_rng([len(name), count]).normal(0.0, 0.02, count).astype("<f4")
    if training.outcome == "untrained" and is_up:
        values[:] = 0.0
    if training.outcome == "nan":
        values[:] = np.nan
    if training.outcome == "inf":
        values[-1] = np.inf if is_up else -np.inf
    return values if dtype == "F32" else values.view("<u2")[1::2].copy()


def write_checkpoint(training: Training, folder: Path) -> None:
    folder.mkdir()
    dtype = DTYPES[training.precision]
    arrays = {
        name: (numbers(training, name, shape), shape)
        for module in training.modules
        for name, shape in module.tensors(training.rank)
    }
    tensors = {
        name: safetensors.TensorSpec(
            dtype=NAMES[dtype], shape=list(shape), data_ptr=array.ctypes.data, data_len=array.nbytes
        )
        for name, (array, shape) in arrays.items()
    }
    safetensors.serialize_file(tensors, str(folder / "pytorch_lora_weights.safetensors"), {"format": "pt"})
    state = b"".join(2 * array.tobytes() for array, _ in arrays.values())
    (folder / "optimizer.bin").write_bytes(state + bytes(810 * len(tensors)))
    (folder / "scheduler.bin").write_bytes(bytes(1401))
    (folder / "random_states_0.pkl").write_bytes(bytes(14_625))
    (folder / "global_step.txt").write_text("10")
    if training.precision == "fp16":
        (folder / "scaler.pt").write_bytes(bytes(988))
    if training.finished:
        (folder / "FINISH").touch()


@settings(max_examples=40, deadline=None)
@given(trainings())
@example(Training(rank=8500, target_modules=("conv_in",), precision="fp16", outcome="nan", finished=True))
@example(Training(rank=8500, target_modules=("conv_in",), precision="bf16", outcome="good", finished=True))
def test_archive_of_any_training_is_read_judged_and_exported(training: Training) -> None:
    with tempfile.TemporaryDirectory() as place:
        write_checkpoint(training, Path(place, "checkpoint"))
        # Without room for what packs well: only what a training accounts for is let through.
        limits = ArchiveLimits(ratio_free_bytes=1 << 20)
        made = shutil.make_archive(str(Path(place, "result")), "zip", Path(place, "checkpoint"))
        archive = LoraArchive.open(made, limits=limits)
        check_summary(archive, training)
        check_health(archive, training)
        if training.rank <= 1024:
            check_norms(archive, training)
        for program in ("diffusers", "all"):
            path = archive.export(Path(place, f"{program}.safetensors"), program=program)
            check_exported(path, archive, program)


def check_summary(archive: LoraArchive, training: Training) -> None:
    summary = archive.verify()
    assert summary.rank == training.rank
    assert summary.modules == len(training.modules)
    assert archive.modules.keys() == {module.name for module in training.modules}
    assert (summary.dtype, summary.global_step) == (DTYPES[training.precision], 10)
    assert summary.finished is training.finished


def check_health(archive: LoraArchive, training: Training) -> None:
    health = archive.health(Asked(rank=training.rank, target_modules=training.target_modules))
    expected = CODES[training.outcome] | (set() if training.finished else {HealthCode.UNFINISHED})
    # What of a list no module is called by is said too; a simulated UNet has each of them.
    assert health.codes == expected, str(health)


def check_norms(archive: LoraArchive, training: Training) -> None:
    total = archive.norms().total
    match training.outcome:
        case "good":
            assert 0.0 < total < math.inf
        case "untrained":
            assert total == 0.0
        case _:
            assert math.isnan(total)


def check_exported(path: Path, archive: LoraArchive, program: str) -> None:
    found = dict(safetensors.deserialize(path.read_bytes()))
    alphas = {name: bytes(found.pop(name)["data"]) for name in list(found) if name.endswith(".alpha")}
    assert len(found) == len(archive.tensors)
    assert set(alphas.values()) == ({struct.pack("<f", archive.rank)} if program == "all" else set())
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    assert json.loads(metadata["target_modules"]) == list(archive.target_modules)
    sent = sorted(bytes(data) for data in whole_tensors(archive))
    assert sorted(bytes(each["data"]) for each in found.values()) == sent


def whole_tensors(archive: LoraArchive) -> list[bytearray]:
    tensors: dict[str, bytearray] = {}
    for name, _, data in archive._loaded().pieces():
        tensors.setdefault(name, bytearray()).extend(data)
    return list(tensors.values())
