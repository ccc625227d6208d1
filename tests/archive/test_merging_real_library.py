"""A merged file against what diffusers makes of its parts with ``set_adapters``."""

from pathlib import Path
from typing import Any

import pytest

from crynux_async.archive import LoraArchive, Part, merge
from tests.archive import test_export_real_library as real

torch: Any = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore")


def test_merged_file_is_what_set_adapters_does(tmp_path: Path) -> None:
    weights = (0.75, -0.5, 1.25)
    kinds = (real.MIXED, real.ATTENTION, "all-linear")
    archives = [
        real.make_archive(tmp_path / f"{number}.zip", target_modules=modules, rank=rank)
        for number, (modules, rank) in enumerate(zip(kinds, (4, 2, 6), strict=True))
    ]
    pipe = real.pipeline()
    names = [f"part{number}" for number in range(3)]
    for name, archive in zip(names, archives, strict=True):
        file = archive.export(tmp_path / f"{name}.safetensors")
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
    pipe.set_adapters(names, adapter_weights=list(weights))
    parts = [Part(LoraArchive.open(archive.path), weight) for archive, weight in zip(archives, weights, strict=True)]
    merged = real.image(real.load(merge(tmp_path / "out.safetensors", parts)))
    assert real.difference(merged, real.image(pipe.unet)) < 1e-5
    assert real.difference(merged, real.image(real.make_unet())) > 1e-3
