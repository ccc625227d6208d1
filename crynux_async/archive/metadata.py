"""What an exported file says about itself: texts in its header, for people and for the programs that show them.

Three vocabularies stand side by side. The library's own keys say what was trained. ``ss_`` keys are those of kohya's
training scripts, which AUTOMATIC1111 and ComfyUI's model managers show; AUTOMATIC1111 also goes by them: a file that
has any text and not ``ss_v2`` "True" counts as one for Stable Diffusion 1.x and is hidden while a 2.x model is loaded.
``modelspec.`` keys are the standard of Stability AI for the same.

Source: stable-diffusion-webui 1.10.1 extensions-builtin/Lora/network.py (detect_version) and ui_edit_user_metadata.py
(build_tags); kohya-ss sd-scripts train_network.py and library/sai_model_spec.py; https://github.com/Stability-AI/ModelSpec
version 1.0.1.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs

from crynux_async.archive.families import Family, family_named, family_of
from crynux_async.archive.lora import LoraModule
from crynux_async.archive.naming import Layout
from crynux_async.archive.scaling import ADAPTER_METADATA, PLAIN_ALPHAS, write_scaling
from crynux_async.errors import UsageError
from crynux_async.secret import mask_address, mask_addresses

_ARCHITECTURES: Final[Mapping[Family, str]] = MappingProxyType(
    {"sd1": "stable-diffusion-v1", "sdxl": "stable-diffusion-xl-v1-base"}
)
_BASE_MODEL: Final = "base_model"
_TRIGGER: Final = "trigger"
_TITLE: Final = "modelspec.title"
_V_PREDICTION: Final = "v_prediction"
_LARGE: Final = 768


@attrs.frozen(kw_only=True)
class Description:
    """What is known of a LoRA that is exported; None where it is not.

    Attributes:
        global_step: Optimizer steps made.
        base_model: The model that the LoRA belongs to.
        trigger: The words that bring out what was trained.
        config: What was trained, as far as JSON can hold it.
        digest: Digest of the config.
        metadata: Further texts; they win over all others.
        said: The texts of the file that the LoRA comes from, where people wrote them; they are kept.
    """

    global_step: int | None = None
    base_model: str | None = None
    trigger: str | None = None
    config: Mapping[str, Any] | None = None
    digest: str | None = None
    metadata: Mapping[str, str] | None = None
    said: Mapping[str, str] | None = None


def _pair(value: Any) -> str:
    return f"({value}, {value})"


# kohya's names for the fields of a config, as train_network.py writes them.
_FACTS: Final[Mapping[str, tuple[str, Callable[[Any], str]]]] = MappingProxyType(
    {
        "ss_learning_rate": ("learning_rate", str),
        "ss_unet_lr": ("learning_rate", str),
        "ss_lr_scheduler": ("lr_scheduler", str),
        "ss_lr_warmup_steps": ("lr_warmup_steps", str),
        "ss_max_train_steps": ("max_train_steps", str),
        "ss_num_epochs": ("max_train_epochs", str),
        "ss_total_batch_size": ("batch_size", str),
        "ss_gradient_accumulation_steps": ("gradient_accumulation_steps", str),
        "ss_resolution": ("resolution", _pair),
        "ss_mixed_precision": ("mixed_precision", str),
        "ss_noise_offset": ("noise_offset", str),
        "ss_min_snr_gamma": ("snr_gamma", str),
        "ss_max_grad_norm": ("max_grad_norm", str),
        "ss_seed": ("seed", str),
    }
)


# What the weights themselves say, and what is said of the bytes of another file.
_OF_THE_WEIGHTS: Final = frozenset(
    {
        *("format", "rank", "target_modules", "ss_network_dim", "ss_network_module", "ss_v2"),
        *("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"),
        *(ADAPTER_METADATA, *PLAIN_ALPHAS),
    }
)


def describe(modules: Mapping[str, LoraModule], layout: Layout, known: Description) -> Mapping[str, str]:
    """Put together the texts of an exported file's header; what is not known is left out.

    Args:
        modules: The modules that are in it.
        layout: Whose names the file has.
        known: What is known of it.

    Returns:
        Texts by key; unchangeable.

    Raises:
        UsageError: Something given is not what a header can hold; ``field`` says what.
    """
    _check_texts(base_model=known.base_model, trigger=known.trigger, digest=known.digest)
    extra = _checked_metadata(known.metadata)
    texts = _texts(modules, known) if known.said is None else _retold(modules, known, known.said)
    if layout == "diffusers" and any(module.alpha != module.rank for module in modules.values()):
        rank = next(iter(modules.values())).rank
        texts[ADAPTER_METADATA] = write_scaling({name: each.alpha for name, each in modules.items()}, rank)
    return MappingProxyType({**texts, **extra})


def trigger_said(metadata: Mapping[str, str]) -> str | None:
    """Return the words that bring out what was trained, as a header says them, or None."""
    return metadata.get(_TRIGGER) or metadata.get("modelspec.trigger_phrase") or None


def base_model_said(metadata: Mapping[str, str]) -> str | None:
    """Return the base model that a header names, or None; kohya's scripts name a file, which is none."""
    return metadata.get(_BASE_MODEL) or None


def family_said(metadata: Mapping[str, str]) -> Family | None:
    """Return the family that a header tells the web UIs, or None where it tells none."""
    if metadata.get("ss_base_model_version", "").startswith("sdxl"):
        return "sdxl"
    families: Mapping[str, Family] = {"True": "sd2", "False": "sd1"}
    return families.get(metadata.get("ss_v2", ""))


def _retold(modules: Mapping[str, LoraModule], known: Description, said: Mapping[str, str]) -> dict[str, str]:
    """Return the texts of a LoRA that comes from a file with texts of its own.

    What the caller gives counts most, then what the file said, then what is concluded here; but the weights speak for
    themselves. What the caller gave shows in what would be written without it.
    """
    kept = {key: text for key, text in said.items() if key not in _OF_THE_WEIGHTS}
    base_model = known.base_model or base_model_said(said)
    texts = _texts(modules, attrs.evolve(known, base_model=base_model))
    without = _texts(modules, Description(global_step=known.global_step, base_model=base_model_said(said)))
    # The title follows from the base model, and a title that people wrote says more.
    given = {key: text for key, text in texts.items() if without.get(key) != text and key != _TITLE}
    weights = {key: text for key, text in texts.items() if key in _OF_THE_WEIGHTS}
    # Where the layers do not tell the family, the file's word is better than none: without it AUTOMATIC1111 takes it
    # for 1.x.
    if "ss_v2" not in weights and "ss_v2" in said:
        weights["ss_v2"] = said["ss_v2"]
    return {**texts, **kept, **given, **weights}


def _texts(modules: Mapping[str, LoraModule], known: Description) -> dict[str, str]:
    family = family_of(modules.values()) or (family_named(known.base_model) if known.base_model else None)
    texts = {**_own(modules, known), **dict(_kohya(modules, known, family)), **dict(_modelspec(known, family))}
    return {key: text for key, text in texts.items() if text is not None}


def _own(modules: Mapping[str, LoraModule], known: Description) -> dict[str, str | None]:
    targets = sorted({module.target for module in modules.values()})
    return {
        _BASE_MODEL: known.base_model,
        _TRIGGER: known.trigger,
        "rank": _ranks(modules),
        "alpha": _alphas(modules),
        "target_modules": json.dumps(targets, separators=(",", ":")),
        "global_step": None if known.global_step is None else str(known.global_step),
        "training_config": None if known.config is None else _dump_config(known.config),
        "config_digest": known.digest,
    }


def _kohya(
    modules: Mapping[str, LoraModule], known: Description, family: Family | None
) -> Iterator[tuple[str, str | None]]:
    yield "ss_network_module", "networks.lora"
    yield "ss_network_dim", _ranks(modules)
    yield "ss_network_alpha", _alphas(modules)
    yield "ss_sd_model_name", known.base_model
    yield "ss_steps", None if known.global_step is None else str(known.global_step)
    if family is not None:
        yield "ss_v2", str(family == "sd2")
        yield "ss_base_model_version", _base_model_version(known, family)
    if known.trigger is not None:
        # A folder's tags with how often each was there: the words that AUTOMATIC1111 offers for the prompt.
        yield "ss_tag_frequency", json.dumps({"trigger": {known.trigger: 1}}, ensure_ascii=False)
    config = known.config or {}
    if config:
        # The only one that nodes have.
        yield "ss_optimizer", "torch.optim.adamw.AdamW"
    for key, (field, shown) in _FACTS.items():
        if config.get(field) is not None:
            yield key, shown(mask_address(config[field]))


def _modelspec(known: Description, family: Family | None) -> Iterator[tuple[str, str | None]]:
    if family is None:
        # The standard wants an architecture; a wrong one is worse than none.
        return
    predicts_v = _predicts_v(known, family)
    yield "modelspec.sai_model_spec", "1.0.1"
    yield "modelspec.architecture", f"{_architecture(predicts_v, family)}/lora"
    yield "modelspec.implementation", "diffusers"
    yield _TITLE, _title(known)
    side = (known.config or {}).get("resolution") or (_LARGE if predicts_v else 512)
    yield "modelspec.resolution", f"{side}x{side}"
    yield "modelspec.prediction_type", "v" if predicts_v else "epsilon"
    yield "modelspec.trigger_phrase", known.trigger


def _title(known: Description) -> str:
    what = f"LoRA of {known.base_model}" if known.base_model else "LoRA"
    return f"{known.trigger}, a {what}" if known.trigger else what


def _architecture(predicts_v: bool, family: Family) -> str:
    return _ARCHITECTURES.get(family) or ("stable-diffusion-v2-768-v" if predicts_v else "stable-diffusion-v2-512")


def _base_model_version(known: Description, family: Family) -> str:
    if family == "sdxl":
        return "sdxl_base_v1-0"
    return f"sd_{'v2' if family == 'sd2' else 'v1'}{'_v' if _predicts_v(known, family) else ''}"


def _predicts_v(known: Description, family: Family) -> bool:
    """Tell whether the base model predicts v: as the config says, else as those models of the family do that are known.

    Of Stable Diffusion 2.x the models for 768 pixels do, which are called as the others are, without "-base".
    """
    config = known.config or {}
    if said := config.get("prediction_type"):
        return bool(said == _V_PREDICTION)
    if family != "sd2":
        return False
    if known.base_model and family_named(known.base_model):
        return not known.base_model.lower().endswith("-base")
    resolution = config.get("resolution")
    return isinstance(resolution, int) and resolution >= _LARGE


def _ranks(modules: Mapping[str, LoraModule]) -> str:
    return ",".join(map(str, sorted({module.rank for module in modules.values()})))


def _alphas(modules: Mapping[str, LoraModule]) -> str:
    return ",".join(f"{alpha:.9g}" for alpha in sorted({module.alpha for module in modules.values()}))


def _dump_config(config: Mapping[str, Any]) -> str:
    try:
        # Models are given away, and with them what they say of themselves.
        return json.dumps(mask_addresses(config), sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        # A dict that holds itself.
        raise UsageError(f"the config cannot be written as JSON: {error}", field="config") from error


def _checked_metadata(metadata: Mapping[str, str] | None) -> Mapping[str, str]:
    given: object = {} if metadata is None else metadata
    if not isinstance(given, Mapping):
        raise UsageError(f"metadata is {given!r} and must map texts to texts", field="metadata")
    for key, value in given.items():
        if not isinstance(key, str) or not isinstance(value, str):
            message = f"metadata[{key!r}] is {value!r}, and a safetensors file holds texts alone; give str(...) of it"
            raise UsageError(message, field="metadata")
        _check_encoding("metadata", key + value)
    return given


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
