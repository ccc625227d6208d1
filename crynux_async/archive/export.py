"""Writing a LoRA as one clean safetensors file, under names that other programs read completely.

diffusers decides by the first tensor's name which naming style a file has, and drops what has the other one. A file
from a node can mix both, so that up to all attention weights are lost on loading. Here every pair is named in one
layout; see ``naming`` for which program reads which. Only names change: the numbers are copied byte for byte. An alpha
is written where the layout has a place for it: as a tensor, or in the adapter metadata that diffusers reads.

Source: diffusers src/diffusers/loaders/peft.py (load_lora_adapter) and src/diffusers/utils/state_dict_utils.py
(convert_state_dict_to_kohya); kohya-ss sd-scripts networks/lora.py.
"""

import struct
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import attrs

from crynux_async import files
from crynux_async.archive.lora import LoraModule
from crynux_async.archive.naming import TEXT_ENCODER, Layout, Program, alpha_name, halves, layout_for
from crynux_async.archive.safetensors import TensorInfo, dump_header
from crynux_async.errors import ArchiveError

_ALPHA_BYTES = 4


def plan_beginning(
    tensors: Mapping[str, TensorInfo],
    modules: Mapping[str, LoraModule],
    program: Program,
    metadata: Mapping[str, str],
) -> bytes:
    """Make everything of an exported file that stands in front of the weights.

    Args:
        tensors: The source's tensors, in the order of their bytes.
        modules: The source's modules.
        program: What the file is for.
        metadata: Texts for the header.

    Returns:
        The header, and the alphas where the layout has them; the source's weights follow, in their order. The same
        arguments always give the same bytes.

    Raises:
        ValueError: When a file for this program cannot express this LoRA.
    """
    layout = layout_for(program)
    _check_expressible(modules.values(), program)
    alphas = {alpha_name(name): module.alpha for name, module in modules.items()} if layout == "kohya" else {}
    scalar = TensorInfo(dtype="F32", shape=(), offset_bytes=0, size_bytes=_ALPHA_BYTES)
    names = _names(modules, layout)
    entries = [*((name, scalar) for name in alphas), *((names[name], info) for name, info in tensors.items())]
    planned: dict[str, TensorInfo] = {}
    offset = 0
    for name, info in entries:
        # Counted anew: alphas stand in front, and a foreign file had its own alphas between the weights.
        planned[name] = attrs.evolve(info, offset_bytes=offset)
        offset += info.size_bytes
    # Dots become underscores in the kohya layout, so two paths can meet in one name.
    if len(planned) != len(tensors) + len(modules) * (layout == "kohya"):
        raise ValueError('two modules would have one name in this file; export it for "diffusers" alone')
    # As in the nodes' own files; some loaders refuse a file without it.
    header = dump_header(planned, {"format": "pt", **metadata})
    return header + b"".join(struct.pack("<f", alpha) for alpha in alphas.values())


def _names(modules: Mapping[str, LoraModule], layout: Layout) -> dict[str, str]:
    names: dict[str, str] = {}
    for name, module in modules.items():
        names[module.down], names[module.up] = halves(name, layout)
    return names


def _check_expressible(modules: Collection[LoraModule], program: Program) -> None:
    ranks = sorted({module.rank for module in modules})
    alphas = sorted({module.alpha for module in modules})
    if program == "diffusers" and len(ranks) > 1:
        # Its adapter metadata has one rank here, and without any every module is scaled by the first one's.
        raise ValueError(
            f"the modules have different ranks ({_some(ranks)}), which a file for diffusers alone cannot express; "
            'export it for "comfyui", "a1111" or "kohya"'
        )
    has_encoder = any(module.name.startswith(TEXT_ENCODER) for module in modules)
    if program == "diffusers" and has_encoder and any(module.alpha != module.rank for module in modules):
        # The adapter metadata written here is the UNet's; diffusers would give the text encoder the defaults of peft.
        raise ValueError(
            "its text encoder has an alpha of its own, which a file for diffusers alone cannot express here; "
            'export it for "all", which diffusers reads too'
        )
    if program == "all" and len(alphas) > 1:
        raise ValueError(
            f"the modules have different alphas ({_some(alphas)}), and diffusers would scale all of them by the first "
            "one; export it for one program"
        )


def _some(numbers: list[int] | list[float]) -> str:
    shown = ", ".join(f"{number:g}" for number in numbers[:5])
    return shown if len(numbers) <= 5 else f"{shown}, ..."


def write_new_file(path: Path, pieces: Iterable[bytes], *, overwrite: bool) -> None:
    """Write a file whole or not at all; it is on disk, with its name, when this returns.

    Args:
        path: The name it is to have.
        pieces: Its bytes. An exception out of this iterable, which must not be an OSError, leaves no file behind and
            goes on to the caller.
        overwrite: Whether a file of that name may be replaced.

    Raises:
        ArchiveError: When it cannot be written, or is there and must not be replaced.
    """
    try:
        with files.new_file(path, replace=overwrite) as file:
            for piece in pieces:
                file.write(piece)
    except FileExistsError as error:
        raise ArchiveError(f"{path}: is there already; choose another name, or ask for it to be replaced") from error
    except OSError as error:
        raise ArchiveError(files.explain(error, path)) from error
