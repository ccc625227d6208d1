"""Rules about the values of a config: ``CX1xx``."""

import functools
import re
from collections.abc import Iterator, Sequence
from urllib.parse import SplitResult, unquote, urlsplit

from crynux_async.datasets.archives import ENDINGS, ending_of
from crynux_async.datasets.hosts import is_private
from crynux_async.training.advice.case import Case
from crynux_async.training.advice.codes import Advice, advise
from crynux_async.training.patterns import SECONDS
from crynux_async.training.unet_modules import Selection, endings, is_attention, select

# Models with a second text encoder, or a UNet of other inputs than four channels: names are all that is known here.
_OTHER_MODELS = re.compile(
    r"sdxl|(?<![a-z])xl(?![a-z])|(?<![a-z])flux(?![a-z])|(?<![a-z])ssd[-_. ]?1[-_. ]?b(?![a-z])"
    r"|(?<![a-z])(?:sd|stable[-_. ]?diffusion)[-_. ]?3|playground[-_. ]?v[-_. ]?2|stable[-_. ]?(?:cascade|video)"
    r"|pixart|kandinsky|wuerstchen|deepfloyd|hunyuan|auraflow|inpaint|pix2pix",
    re.IGNORECASE,
)
# "RealVisXL" is Real-Vis-XL, but "pixel" is one word.
_NEW_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SHOWN = 3


def judge_model(case: Case) -> Iterator[Advice]:
    """Judge the base model by its name: nothing else is known of it here."""
    name = case.config.model_name.partition("/")[2] or case.config.model_name
    found = _OTHER_MODELS.search(name) or _OTHER_MODELS.search(_NEW_WORD.sub("-", name))
    if found:
        text = (
            f"{case.config.model_name!r} looks like a model of another kind ({found.group()!r}). The training code has "
            "one text encoder and a UNet of four channels; with anything else it stops at the first step."
        )
        yield advise("CX101", "model_name", text)
    if case.config.model_revision != "main":
        text = (
            f"Nodes load the base model by name and variant, without a revision: {case.config.model_revision!r} is "
            "probably not there, and the noise scheduler is the main revision's anyway."
        )
        yield advise("CX111", "model_revision", text)
    if case.config.model_variant is not None:
        text = (
            f"UNet and VAE must exist as {case.config.model_variant!r} files, and the text encoder without: a "
            "repository that has only one kind fails."
        )
        yield advise("CX112", "model_variant", text)


def judge_targets(case: Case) -> Iterator[Advice]:
    """Judge which layers get a LoRA."""
    selection = select(case.config.target_modules)
    if selection.outcome != "known":
        yield _unread(case.config.target_modules, selection)
    elif selection.unsuitable:
        named = _unsuitable(case.config.target_modules, selection.unsuitable)
        text = (
            f"{named} also names what is no linear or convolution layer, such as {selection.unsuitable[0]}. Training "
            "stops before the first step."
        )
        yield advise("CX103", "target_modules", text)
    elif not selection.trained:
        text = (
            f"No layer of the UNet matches {_named(selection.unmatched)}. In a list each entry is a name or its end; a "
            "text is a regular expression for the whole name. Training stops before the first step."
        )
        yield advise("CX102", "target_modules", text)
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
            f"Matching {_shown(target_modules)} with the names of the layers took more than {SECONDS:g} s of computing "
            "and was given up. Nodes use the same engine, which cannot be interrupted: they stay silent until the "
            "timeout."
        )
        return advise("CX123", "target_modules", text)
    text = f"{_shown(target_modules)} may take for ever on a node, and no Python could be started here to try it out."
    return advise("CX123", "target_modules", text, severity="warning")


def _unsuitable(target_modules: Sequence[str] | str, unsuitable: tuple[str, ...]) -> str:
    if isinstance(target_modules, str):
        return _shown(target_modules)
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
        elif change.asked is not None:
            used = "not used" if change.used is None else f"used as {change.used!r}"
            yield advise("CX109", change.field, f"{_shown(change.asked)} is {used}: {change.reason}.")


def judge_precision(case: Case) -> Iterator[Advice]:
    """Judge the precision of training."""
    if case.config.mixed_precision == "bf16":
        text = "The LoRA and the optimizer's state are kept in bfloat16 (8 bits of precision): small updates get lost."
        yield advise("CX113", "mixed_precision", text)
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
    if config.prediction_type is not None:
        text = f"The base model must predict {config.prediction_type}; with another one the training target is wrong."
        yield advise("CX122", "prediction_type", text)


def _all_square(case: Case) -> bool:
    sizes = case.report.sizes if case.report else {}
    return bool(sizes) and all(width == height for width, height in sizes)


def judge_dataset(case: Case) -> Iterator[Advice]:
    """Judge where the data set comes from, without asking there."""
    url = case.config.dataset_url
    if url is None:
        text = "Nodes load it without a login; private, gated and scripted ones, or such without a train split, fail."
        yield advise("CX121", "dataset_name", text)
        return
    name, is_private = _address(url)
    if "." in name and not ending_of(name):
        text = (
            f"By its name, nodes take {name!r} for no archive ({', '.join(ENDINGS)}), and they load archives only. "
            "Training stops before the first step, unless the server gives the file another name: if `dataset "
            "check-url` says so, send it with force."
        )
        yield advise("CX118", "dataset_url", text)
    if is_private:
        text = (
            "The host of this address is this machine or a private network, which other people's machines cannot reach."
        )
        yield advise("CX119", "dataset_url", text)
    text = (
        "Every round loads it from there. A node that has loaded this address before uses what it got then, without a "
        "word."
    )
    yield advise("CX120", "dataset_url", text)


@functools.lru_cache(maxsize=256)
def _address(url: str) -> tuple[str, bool]:
    """Return the file name of an address, and whether only machines nearby can reach it."""
    parts: SplitResult = urlsplit(url)
    return unquote(parts.path.rpartition("/")[2]), is_private(parts.hostname or "")


def _named(names: tuple[str, ...]) -> str:
    shown = ", ".join(_shown(name) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
