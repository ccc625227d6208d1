"""Writing a LoRA as one clean safetensors file, under names that other programs read completely.

diffusers decides by the first tensor's name which naming style a file has, and drops what has the other one. A file
from a node can mix both, so that up to all attention weights are lost on loading. Here every pair becomes ``lora_A``
and ``lora_B``, which is read whole. The style "kohya" is for programs of the other family: ``lora_unet_`` names with
an alpha each. Only names change: the numbers are copied byte for byte. An alpha that is not the rank is written where
the style has a place for it: as a tensor, or in the adapter metadata that diffusers reads.

Source: diffusers src/diffusers/loaders/peft.py (load_lora_adapter) and src/diffusers/utils/state_dict_utils.py
(convert_state_dict_to_kohya); kohya-ss sd-scripts networks/lora.py.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import attrs

from crynux_async import files
from crynux_async.archive.lora import LoraModule
from crynux_async.archive.safetensors import TensorInfo, dump_header
from crynux_async.archive.scaling import ADAPTER_METADATA, write_scaling
from crynux_async.errors import ArchiveError, UsageError

ExportStyle = Literal["diffusers", "kohya"]
"""Whose names an exported file has."""

_ALPHA_BYTES = 4


def plan_beginning(
    tensors: Mapping[str, TensorInfo],
    modules: Mapping[str, LoraModule],
    style: ExportStyle,
    metadata: Mapping[str, str],
) -> bytes:
    """Make everything of an exported file that stands in front of the weights.

    Args:
        tensors: The source's tensors, in the order of their bytes.
        modules: The source's modules.
        style: Whose names to give.
        metadata: Texts for the header.

    Returns:
        The header, and the alphas where the style has them; the source's weights follow, in their order. The same
        arguments always give the same bytes.

    Raises:
        ValueError: When the style cannot express this LoRA.
    """
    names = _diffusers_names(modules) if style == "diffusers" else _kohya_names(modules)
    alphas = [] if style == "diffusers" else [(_kohya_alpha(name), module.alpha) for name, module in modules.items()]
    shift = _ALPHA_BYTES * len(alphas)
    planned = {
        name: TensorInfo(dtype="F32", shape=(), offset_bytes=_ALPHA_BYTES * index, size_bytes=_ALPHA_BYTES)
        for index, (name, _) in enumerate(alphas)
    }
    for name, info in tensors.items():
        planned[names[name]] = attrs.evolve(info, offset_bytes=info.offset_bytes + shift)
    if len(planned) != len(tensors) + len(alphas):
        raise ValueError("two modules would have one name in the kohya style; export it in the diffusers style")
    header = dump_header(planned, {"format": "pt", **metadata})
    return header + b"".join(struct.pack("<f", alpha) for _, alpha in alphas)


def _diffusers_names(modules: Mapping[str, LoraModule]) -> dict[str, str]:
    if len({module.rank for module in modules.values()}) > 1:
        # Without alphas diffusers scales every module by one rank, which is wrong for the others.
        raise ValueError("the modules have different ranks, which only the kohya style can express")
    names: dict[str, str] = {}
    for name, module in modules.items():
        names[module.down] = f"unet.{name}.lora_A.weight"
        names[module.up] = f"unet.{name}.lora_B.weight"
    return names


def _kohya_names(modules: Mapping[str, LoraModule]) -> dict[str, str]:
    names: dict[str, str] = {}
    for name, module in modules.items():
        names[module.down] = f"{_kohya_module(name)}.lora_down.weight"
        names[module.up] = f"{_kohya_module(name)}.lora_up.weight"
    return names


def _kohya_alpha(name: str) -> str:
    return f"{_kohya_module(name)}.alpha"


def _kohya_module(name: str) -> str:
    return f"lora_unet_{name.replace('.', '_')}"


def describe(
    modules: Mapping[str, LoraModule],
    style: ExportStyle,
    *,
    global_step: int | None,
    base_model: str | None,
    config: Mapping[str, Any] | None,
    digest: str | None,
    metadata: Mapping[str, str] | None,
) -> Mapping[str, str]:
    """Put together the texts of an exported file's header; what is None is left out.

    Args:
        modules: The modules that are in it.
        style: Whose names the file has; "kohya" adds the ``ss_`` keys that those programs show.
        global_step: Optimizer steps made.
        base_model: The model that the LoRA belongs to.
        config: What was trained, as far as JSON can hold it.
        digest: Digest of the config.
        metadata: Further texts; they win over all others.

    Returns:
        Texts by key; unchangeable.

    Raises:
        UsageError: Something given is not what a header can hold; ``field`` says what.
    """
    ranks = sorted({module.rank for module in modules.values()})
    alphas = sorted({module.alpha for module in modules.values()})
    targets = sorted({module.target for module in modules.values()})
    texts = {
        "base_model": base_model,
        "rank": ",".join(map(str, ranks)),
        "alpha": ",".join(f"{alpha:.9g}" for alpha in alphas),
        "target_modules": json.dumps(targets, separators=(",", ":")),
        "global_step": None if global_step is None else str(global_step),
        "training_config": None if config is None else _dump_config(config),
        "config_digest": digest,
    }
    if style == "kohya":
        texts |= {
            "ss_network_module": "networks.lora",
            "ss_network_dim": texts["rank"],
            "ss_network_alpha": texts["alpha"],
            "ss_sd_model_name": base_model,
            "ss_steps": texts["global_step"],
        }
    elif any(module.alpha != module.rank for module in modules.values()):
        texts[ADAPTER_METADATA] = write_scaling({name: each.alpha for name, each in modules.items()}, ranks[0])
    known = {key: text for key, text in texts.items() if text is not None}
    _check_texts(base_model=base_model, digest=digest)
    return MappingProxyType({**known, **_checked_metadata(metadata)})


def _dump_config(config: Mapping[str, Any]) -> str:
    try:
        return json.dumps(config, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the config cannot be written as JSON: {error}", field="config") from error


def _checked_metadata(metadata: Mapping[str, str] | None) -> Mapping[str, str]:
    given: dict[Any, Any] = dict(metadata or {})
    for key, value in given.items():
        if not isinstance(key, str) or not isinstance(value, str):
            message = f"metadata[{key!r}] is {value!r}, and a safetensors file holds texts alone; give str(...) of it"
            raise UsageError(message, field="metadata")
        _check_encoding("metadata", key + value)
    return metadata or {}


def _check_texts(**texts: object) -> None:
    for field, text in texts.items():
        if text is None:
            continue
        if not isinstance(text, str):
            raise UsageError(f"{field} is {text!r} and must be a text", field=field)
        _check_encoding(field, text)


def _check_encoding(field: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{field} holds a character that cannot be written: {error}", field=field) from error


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
