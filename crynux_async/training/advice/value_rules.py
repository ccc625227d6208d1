"""Rules about the values of a config: ``CX1xx``."""

from collections.abc import Iterator, Sequence

from crynux_async.training.advice.case import Case, shown
from crynux_async.training.advice.codes import Advice, advise
from crynux_async.training.base_models import base_model
from crynux_async.training.patterns import SECONDS
from crynux_async.training.unet_modules import Selection, endings, is_attention, select

OWN_RESOLUTIONS = (512, 768)
"""Sides in pixels of the images that Stable Diffusion 1.x and 2.x were made for."""

FAR_RESOLUTION = 1.5
"""How many times as large or small a side may be before it is said; twice that far is a warning."""

MOST_NOISE_OFFSET = 0.2
"""Twice what is recommended.

Source: diffusers train_text_to_image_lora.py, --noise_offset; crosslabs.org "Diffusion with Offset Noise" (0.1).
"""

_SHOWN = 3


def judge_targets(case: Case) -> Iterator[Advice]:
    """Judge which layers get a LoRA."""
    selection = select(case.config.target_modules, base_model(case.config.model_name).family or "1.x")
    if selection.outcome != "known":
        yield _unread(case.config.target_modules, selection)
    # One layer of a wrong kind stops peft, whatever else was named: so this comes before what is missing.
    elif selection.unsuitable:
        named = _unsuitable(case.config.target_modules, selection.unsuitable)
        text = (
            f"{named} also names what is not a linear or convolution layer, such as {selection.unsuitable[0]}. "
            "Training stops before the first step."
        )
        yield advise("CX103", "target_modules", text)
    elif not selection.trained:
        text = (
            f"No layer of the UNet matches {_named(selection.unmatched)}. In a list each entry is a name or its end; a "
            "text is a regular expression for the whole name. Training stops before the first step."
        )
        yield advise("CX102", "target_modules", text)
    # peft is silent about an entry that matches nothing, as long as another one matches something.
    elif selection.unmatched:
        text = f"No layer of the UNet matches {_named(selection.unmatched)}: silently left out."
        yield advise("CX104", "target_modules", text)
    # Attention is saved as lora.down/lora.up and all else as lora_A/lora_B: diffusers loaders/peft.py (first_key).
    if selection.attention_count and not is_attention(selection.trained[0]) and not selection.unsuitable:
        text = (
            f"The file has two styles of names, and diffusers goes by the first ({selection.trained[0]}): of "
            f"{len(selection.trained)} trained layers it drops the {selection.attention_count} of the attention, with "
            "a warning only."
        )
        yield advise("CX105", "target_modules", text)


def _unread(target_modules: Sequence[str] | str, selection: Selection) -> Advice:
    if selection.outcome == "too long":
        text = (
            f"Matching {shown(target_modules)} with the names of the layers took more than {SECONDS:g} s of computing "
            "and was given up. Nodes use the same engine, which cannot be interrupted: they stay silent until the "
            "timeout."
        )
        return advise("CX123", "target_modules", text)
    text = f"{shown(target_modules)} may take for ever on a node, and no Python could be started here to try it out."
    return advise("CX123", "target_modules", text, severity="warning")


def _unsuitable(target_modules: Sequence[str] | str, unsuitable: tuple[str, ...]) -> str:
    if isinstance(target_modules, str):
        return shown(target_modules)
    bad = {ending for name in unsuitable for ending in endings(name)}
    return _named(tuple(entry for entry in target_modules if entry in bad))


def judge_start(case: Case) -> Iterator[Advice]:
    """Judge how the LoRA's weights begin."""
    if case.config.init_lora_weights == "loftq":
        text = "LoftQ needs a configuration that cannot be given here. Training stops before the first step."
        yield advise("CX106", "init_lora_weights", text)
    elif case.config.init_lora_weights is False:
        text = "Both halves of the LoRA begin at random, so that the first step sees a base model with noise added."
        yield advise("CX107", "init_lora_weights", text)


def judge_differences(case: Case) -> Iterator[Advice]:
    """Report every value that is sent or used otherwise than asked for."""
    for change in case.effective.differences:
        if change.field == "learning_rate":
            text = f"The peak is {change.used:g}, not {change.asked:g}: {change.reason}."
            yield advise("CX110", change.field, text)
        elif change.sent != change.asked and change.sent is not None:
            yield advise("CX108", change.field, f"{change.asked!r} is sent as {change.sent!r}: {change.reason}.")
        # A length that nobody gave follows from others, and surprises nobody.
        elif change.asked is not None:
            used = "not used" if change.used is None else f"used as {change.used!r}"
            yield advise("CX109", change.field, f"{shown(change.asked)} is {used}: {change.reason}.")


def judge_precision(case: Case) -> Iterator[Advice]:
    """Judge the precision of training."""
    if case.config.mixed_precision == "bf16":
        text = "The LoRA and the optimizer's state are kept in bfloat16 (8 bits of precision): small updates get lost."
        yield advise("CX113", "mixed_precision", text)
    # accelerate keeps the first precision for as long as its process lives, and a node's worker trains task after task
    # in one process. Nearly all of them ask for fp16. Source: accelerate state.py, AcceleratorState.
    if case.config.mixed_precision != "fp16":
        text = (
            "A node's worker that has trained with another precision before fails the first attempt, silently, until "
            "its timeout; the next attempt may work."
        )
        yield advise("CX114", "mixed_precision", text)


def judge_images(case: Case) -> Iterator[Advice]:
    """Judge what is made of the images, and of the validation images."""
    config = case.config
    if config.resolution % 8:
        yield advise("CX115", "resolution", f"{config.resolution} pixels are cut down to whole blocks of 8.")
    if not config.center_crop and not _all_square(case):
        text = "Images that are not square are cropped at random, so captions may describe what was cut off."
        yield advise("CX116", "center_crop", text)
    if config.validation_num_images > 1 and not case.service.has_validation_images:
        text = f"{config.validation_num_images} are rendered after each round, and the bridge hands none of them out."
        yield advise("CX117", "validation_num_images", text)


def _all_square(case: Case) -> bool:
    # Without a report nothing is known of the images, and some may be anything.
    sizes = case.report.sizes if case.report else {}
    return bool(sizes) and all(width == height for width, height in sizes)


def judge_family(case: Case) -> Iterator[Advice]:
    """Judge what the base model was made for: its prediction, and the size of its images."""
    config, model = case.config, base_model(case.config.model_name)
    asked = config.prediction_type
    # Where nothing is asked for, the training code goes by what the model itself says, which is right.
    if asked is not None and model.prediction_type not in {None, asked}:
        text = (
            f"{config.model_name!r} predicts {model.prediction_type}, and would be trained towards {asked}: the LoRA "
            "learns to turn the one into the other, and every program renders noise or flat colours with it."
        )
        yield advise("CX129", "prediction_type", text)
    elif asked is not None and model.prediction_type is None:
        text = f"The base model must predict {asked}; with another one the training target is wrong."
        yield advise("CX122", "prediction_type", text)
    yield from _judge_resolution(config.resolution, model.resolution)


def _judge_resolution(asked: int, own: int | None) -> Iterator[Advice]:
    smallest, largest = (own, own) if own else (OWN_RESOLUTIONS[0], OWN_RESOLUTIONS[-1])
    if smallest <= asked * FAR_RESOLUTION and asked <= largest * FAR_RESOLUTION:
        return
    made_for = f"{smallest}" if own else f"{smallest} to {largest}"
    whose = "The base model was" if own else "Stable Diffusion 1.x and 2.x were"
    if asked < smallest:
        what = "the LoRA learns coarse pictures without detail, and carries them into every size that is rendered"
    else:
        what = (
            "it learns crops of what it knows as a whole, so things get doubled; time and memory grow with the pixels"
        )
    is_very_far = asked * 2 < smallest or asked > largest * 2
    yield advise(
        "CX130",
        "resolution",
        f"{whose} made for {made_for} pixels: with {asked}, {what}.",
        severity="warning" if is_very_far else None,
    )


def judge_noise(case: Case) -> Iterator[Advice]:
    """Judge the offset of the noise."""
    offset = abs(case.config.noise_offset)
    if offset > MOST_NOISE_OFFSET:
        text = (
            f"Every picture gets noise whose brightness differs by {offset:g} of the noise itself (0.05 to 0.1 is "
            "usual; the sign does not matter). Rendering begins without it, so pictures come out too dark or too "
            "bright, and flat."
        )
        yield advise("CX131", "noise_offset", text)


def _named(names: tuple[str, ...]) -> str:
    first = ", ".join(shown(name) for name in names[:_SHOWN])
    return first if len(names) <= _SHOWN else f"{first} and {len(names) - _SHOWN} more"
