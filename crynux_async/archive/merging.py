"""Several LoRAs of one base model in one file, each with a weight: exactly what they do together. Needs numpy.

The sum of w1 s1 B1 A1 and w2 s2 B2 A2 is one product again: (B1 | B2) with the factors folded in, times A1 over A2. So
ranks are put side by side and nothing is lost; an approximation of a lower rank would be. A module that only some of
them have, or in which ranks differ, is filled up with zeros to one rank for all, whose alpha is that rank: with alphas
that differ diffusers would scale wrongly (see ``naming``).

Source: peft src/peft/tuners/lora/model.py (add_weighted_adapter, combination_type "cat"); diffusers set_adapters, whose
sum this is.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, get_args

import attrs

from crynux_async.archive.export import plan_beginning, write_new_file
from crynux_async.archive.families import FAMILY_TITLES
from crynux_async.archive.lora import LoraModule
from crynux_async.archive.lora_archive import LoraArchive
from crynux_async.archive.metadata import Description, base_model_said, describe, trigger_said
from crynux_async.archive.naming import Program, layout_for
from crynux_async.archive.safetensors import TensorInfo
from crynux_async.archive.zip_members import reading
from crynux_async.errors import ArchiveError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FLOAT32_BYTES = 4
_MOST_RANK = 4096  # of what is made here; archives may have any


@attrs.frozen
class Part:
    """One LoRA of a merge.

    Attributes:
        archive: The LoRA.
        weight: By how much it counts, finite; may be negative.
    """

    archive: LoraArchive
    weight: float = 1.0


def merge(
    path: str | os.PathLike[str],
    parts: Sequence[Part],
    *,
    program: Program = "all",
    base_model: str | None = None,
    trigger: str | None = None,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one LoRA that does what several do together, as diffusers' ``set_adapters`` with the same weights.

    Its rank is at most the sum of theirs, its numbers are float32, and one module at a time is in memory.

    Args:
        path: The file to write.
        parts: The LoRAs, at least two, with their weights.
        program: What loads the file; see :meth:`LoraArchive.export`.
        base_model: The model that they need; None for the one that the files name, where they name one.
        trigger: The words that bring them out; None for those that the files name, one after another.
        metadata: Further texts for the header; they win over the library's own.
        overwrite: Replace a file of that name.

    Returns:
        The file.

    Raises:
        ArchiveError: When one cannot be read, they do not fit together, a weight of one is not a finite number, or the
            file cannot be written or is there already. Nothing was written.
        UsageError: When there is no such program, fewer than two parts, a weight is not finite, or numpy is not
            installed; ``field`` says which.
    """
    _check_given(parts, program)
    plan = _plan(parts, named=base_model)
    about = Description(
        base_model=base_model or _common(_said(parts, base_model_said)),
        trigger=trigger or ", ".join(_said(parts, trigger_said)) or None,
        metadata={**_provenance(parts), **(metadata or {})},
    )
    texts = describe(plan.modules, layout_for(program), about)
    target = Path(path)
    with reading(target):
        beginning = plan_beginning(plan.tensors, plan.modules, program, texts)
    write_new_file(target, _pieces(beginning, parts, plan), overwrite=overwrite)
    return target


@attrs.frozen(kw_only=True)
class _Plan:
    """The file to be written: its modules, all of one rank, and its tensors in their order."""

    rank: int
    modules: Mapping[str, LoraModule]
    tensors: Mapping[str, TensorInfo]


def _check_given(parts: Sequence[Part], program: Program) -> None:
    if program not in (known := get_args(Program)):
        raise UsageError(f"there is no program {program!r} to merge for; choose one of {', '.join(known)}")
    if len(parts) < 2:
        raise UsageError(f"a merge takes at least two LoRAs, and got {len(parts)}", field="parts")
    for part in parts:
        if not math.isfinite(part.weight):
            raise UsageError(f"the weight of {part.archive.path} is {part.weight}; give a finite one", field="weight")


def _plan(parts: Sequence[Part], *, named: str | None) -> _Plan:
    _check_families(parts)
    if named is None:
        _check_base_models(parts)
    shapes: dict[str, LoraModule] = {}
    ranks: dict[str, int] = {}
    for part in parts:
        for name, module in part.archive.modules.items():
            _check_shape(part, module, shapes.setdefault(name, module))
            ranks[name] = ranks.get(name, 0) + module.rank
    rank = max(ranks.values())
    if rank > _MOST_RANK:
        raise ArchiveError(
            f"{parts[0].archive.path}: the merged rank would be {rank}, and at most {_MOST_RANK} is written"
        )
    modules = {
        # Names for the plan alone: ``plan_beginning`` gives those of the layout.
        name: attrs.evolve(module, down=f"{name} A", up=f"{name} B", rank=rank, alpha=float(rank))
        for name, module in shapes.items()
    }
    return _Plan(rank=rank, modules=MappingProxyType(modules), tensors=MappingProxyType(dict(_tensors(modules))))


def _tensors(modules: Mapping[str, LoraModule]) -> Iterator[tuple[str, TensorInfo]]:
    for module in modules.values():
        point = (1,) * len(module.kernel)
        for name, shape in (
            (module.down, (module.rank, module.in_features, *module.kernel)),
            (module.up, (module.out_features, module.rank, *point)),
        ):
            size = _FLOAT32_BYTES * math.prod(shape)
            yield name, TensorInfo(dtype="F32", shape=shape, offset_bytes=0, size_bytes=size)


def _check_families(parts: Sequence[Part]) -> None:
    families = {part.archive.family: part.archive.path for part in parts if part.archive.family is not None}
    if len(families) > 1:
        each = ", ".join(f"{path} for {FAMILY_TITLES[family]}" for family, path in families.items())
        raise ArchiveError(f"the LoRAs belong to different base models and cannot be merged: {each}")


def _check_base_models(parts: Sequence[Part]) -> None:
    models = _said(parts, base_model_said)
    if len(models) > 1:
        each = ", ".join(map(repr, models))
        raise ArchiveError(
            f"the LoRAs were trained on different base models ({each}); where they go together all the same, give the "
            "one to be put on record as base_model"
        )


def _check_shape(part: Part, module: LoraModule, first: LoraModule) -> None:
    mine, other = ((each.out_features, each.in_features, *each.kernel) for each in (module, first))
    if mine != other:
        raise ArchiveError(
            f"{part.archive.path}: {module.name} changes a layer of {list(mine)}, and in another LoRA one of "
            f"{list(other)}: they are not of one base model"
        )


def _said(parts: Sequence[Part], read: Callable[[Mapping[str, str]], str | None]) -> list[str]:
    """Return what the files say of one thing, each text once."""
    texts = (read(part.archive.metadata) for part in parts)
    return list(dict.fromkeys(text for text in texts if text))


def _common(texts: Sequence[str]) -> str | None:
    return texts[0] if len(texts) == 1 else None


def _provenance(parts: Sequence[Part]) -> dict[str, str]:
    merged = [{"file": part.archive.path.name, "weight": part.weight} for part in parts]
    # A file's name may hold what is no text; it is on record as far as it is one.
    names = ", ".join(part.archive.path.name for part in parts).encode(errors="replace").decode()
    return {"merged_from": json.dumps(merged), "modelspec.merged_from": names}


def _pieces(beginning: bytes, parts: Sequence[Part], plan: _Plan) -> Iterator[bytes]:
    yield beginning
    for name, module in plan.modules.items():
        down, up = _joined(name, module, parts)
        yield down.tobytes()
        yield up.tobytes()


def _joined(
    name: str, module: LoraModule, parts: Sequence[Part]
) -> tuple["NDArray[np.float32]", "NDArray[np.float32]"]:
    """Return A and B of one module: the parts' side by side, then zeros."""
    import numpy as np

    # Little-endian on every machine, as the file is.
    down = np.zeros((module.rank, module.in_features, *module.kernel), "<f4")
    up = np.zeros((module.out_features, module.rank, *(1,) * len(module.kernel)), "<f4")
    begin = 0
    for part in parts:
        source = part.archive.modules.get(name)
        if source is None:
            continue
        end = begin + source.rank
        down[begin:end] = part.archive.tensor(source.down)
        with np.errstate(over="ignore", invalid="ignore"):
            # In float64, so that weight, scale and number are rounded once.
            up[:, begin:end] = part.weight * source.scale * part.archive.tensor(source.up).astype(np.float64)
        if not (np.isfinite(down[begin:end]).all() and np.isfinite(up[:, begin:end]).all()):
            raise ArchiveError(f"{part.archive.path}: {name} holds numbers that are not finite, or too large to merge")
        begin = end
    return down, up
