"""What the name of a base model tells: nothing else is known of it here.

A name proves something in two ways only: by its form, where no repository of the Hub can have it, and by being that of
a model that everybody knows, or of a copy of it. A word inside of it proves nothing: ``reflux-flux-sd15`` may be
anything. Words are said to be likely, and no more.

Source: huggingface_hub utils/_validators.py (validate_repo_id); model_index.json, unet/config.json and
scheduler/scheduler_config.json of the models named here.
"""

import functools
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final, Literal

import attrs

from crynux_async.training.fields import PredictionType
from crynux_async.values import Value

RepositoryKind = Literal["model", "data set"]
"""What a repository on the Hub holds: both have names of the same form, and addresses that differ."""

Family = Literal["1.x", "2.x"]
"""The two generations of Stable Diffusion that can be trained: they differ in text encoder and prediction."""

_LONGEST_NAME: Final = 96
# Texts, not patterns: of a plain name (see below) no more is asked, and no start waits for them to be compiled.
_HUB_NAME: Final = r"(?a:(?:\w(?:[\w.-]*\w)?/)?\w(?:[\w.-]*\w)?)"
_ADDRESS: Final = r"(?i:[a-z0-9+.-]+://|//|(?:www\.)?(?:huggingface\.co|hf\.co|civitai\.com|github\.com)/)"
_HUB_ADDRESS: Final = r"(?i:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(datasets/)?([^/?#\s]+/[^/?#\s]+))"
# Owners that nobody can be called: what stands behind them on the Hub is no repository of a model.
_HUB_SECTIONS: Final = frozenset(
    ("api", "blog", "collections", "datasets", "docs", "learn", "models", "papers", "spaces", "tasks")
)
_PATH: Final = r"[.~]{0,2}[/\\]|~|[A-Za-z]:[/\\]|[^/]*\\"
_FILE: Final = r"(?i:\.(?:safetensors|ckpt|pth?|bin|gguf|onnx|zip|tar|gz|parquet|csv|jsonl?)\Z)"
# What an emulated network is told through a name's last part; a test holds the two together.
_WISHES: Final = ("fail", "stall", "nofinish", "untrained", "nan")
_SIZE_WISH: Final = "big-"

_OTHER_REPOSITORIES: Final = (
    *("stable-diffusion-xl-base-*", "stable-diffusion-xl-refiner-*", "stable-diffusion-xl-1.0-*", "sdxl-turbo"),
    *("sdxl-lightning", "ssd-1b", "segmind-vega", "playground-v2*", "realvisxl_v*", "juggernaut-xl*"),
    *("dreamshaper-xl*", "animagine-xl*", "illustrious-xl*", "noobai-xl*", "pony-diffusion-v6*"),
    *("stable-diffusion-3-medium*", "stable-diffusion-3.5-*", "sd3.5-large*", "sd3.5-medium*", "flux.1-*", "flux.2-*"),
    *("stable-diffusion-inpainting", "stable-diffusion-v1-5-inpainting", "stable-diffusion-2-inpainting"),
    *("stable-diffusion-2-depth", "stable-diffusion-x4-upscaler", "sd-x2-latent-upscaler", "instruct-pix2pix"),
    *("stable-diffusion-2-1-unclip*", "stable-cascade*", "stable-video-diffusion-*", "wuerstchen", "hunyuandit*"),
    *("qwen-image*", "sana_[0-9]*", "sana_sprint_*", "pixart-*", "auraflow*", "kandinsky-2-*", "kandinsky-3*"),
    *("kolors-diffusers", "z-image-turbo", "hidream-i1-full", "hidream-i1-dev", "hidream-i1-fast", "lumina-image-2.0"),
    *("cogview3-plus-3b", "cogview4-6b", "marigold-depth-v1-*", "marigold-normals-v1-*", "text-to-video-ms-1.7b"),
    *("if-i-m-v1.0", "if-i-l-v1.0", "if-i-xl-v1.0"),
)
_OTHER_OWNERS: Final = (
    "black-forest-labs",
    "deepfloyd",
    "efficient-large-model",
    "kandinsky-community",
    "pixart-alpha",
)

# A word ends where letters become digits or small letters capital ones: RealVisXL_V4 is real, vis, xl, v, 4.
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_OTHER_FAMILIES: Final = (
    *(
        "xl",
        "sdxl",
        "sd 3",
        "stable diffusion 3",
        "flux",
        "ssd 1 b",
        "segmind vega",
        "playground v 2",
        "pixart",
        "sana",
    ),
    *("qwen image", "kandinsky", "wuerstchen", "stable cascade", "stable video", "deepfloyd", "hunyuan", "auraflow"),
)
_OTHER_INPUTS: Final = ("inpaint", "inpainting", "pix 2 pix", "unclip", "upscaler", "diffusion 2 depth")
_FIRST_WORDS: Final = ("sd 15", "sd 14", "sd 1", "v 1 5", "v 1 4", "diffusion 1", "diffusion v 1")
_SECOND_WORDS: Final = ("sd 21", "sd 20", "sd 2", "diffusion 2", "diffusion v 2")
_RIGHT_WORDS: Final = (*_FIRST_WORDS, *_SECOND_WORDS)


@attrs.frozen(kw_only=True)
class BaseModel(Value):
    """What is known of a base model that can be trained.

    Attributes:
        family: Its generation, or None.
        prediction_type: What it predicts, or None where it is no model that everybody knows.
        resolution: Side in pixels of the images that it was made for, or None just so.
    """

    family: Family | None = None
    prediction_type: PredictionType | None = None
    resolution: int | None = None


_FIRST: Final = BaseModel(family="1.x", prediction_type="epsilon", resolution=512)
_SECOND_SMALL: Final = BaseModel(family="2.x", prediction_type="epsilon", resolution=512)
_SECOND_LARGE: Final = BaseModel(family="2.x", prediction_type="v_prediction", resolution=768)
_KNOWN: Final = (
    ("stable-diffusion-v1-[1-5]", _FIRST),
    ("stable-diffusion-2-base", _SECOND_SMALL),
    ("stable-diffusion-2-1-base", _SECOND_SMALL),
    ("sd-turbo", _SECOND_SMALL),
    ("stable-diffusion-2", _SECOND_LARGE),
    ("stable-diffusion-2-1", _SECOND_LARGE),
)


@attrs.frozen(kw_only=True)
class OtherKind(Value):
    """A sign that a base model is of a kind that cannot be trained.

    Attributes:
        sign: The words of its name that tell.
        is_certain: Whether it is a model that everybody knows, or a copy of it under the same name.
    """

    sign: str
    is_certain: bool


# Thousands of configs have one model.
@functools.lru_cache(maxsize=256)
def name_fault(name: str, kind: RepositoryKind) -> str:
    """Say why a name cannot be that of a repository on the Hub, and what to give in its place.

    Args:
        name: The name of a model or data set.
        kind: Which of the two it should be.

    Returns:
        One or two sentences, or ``""`` when such a repository may exist.
    """
    plain = _without_wishes(name)
    return "" if _is_plain(plain) else _fault(plain, kind)


def _fault(plain: str, kind: RepositoryKind) -> str:
    found = re.match(_HUB_ADDRESS, plain)
    if found and is_hub_name(found[2]) and found[2].partition("/")[0].lower() not in _HUB_SECTIONS:
        shown: RepositoryKind = "data set" if found[1] else "model"
        return (
            f"It is the address of a page. Its name is {found[2]!r}."
            if shown == kind
            else f"It is the address of a {shown}, and what is needed here is a {kind}."
        )
    if re.match(_ADDRESS, plain):
        return "It is an address, and nodes load by name from Hugging Face only."
    if re.search(_FILE, plain):
        return "It is a file, and nodes load whole repositories in the layout of diffusers, not single files."
    if re.match(_PATH, plain):
        return "It is a path on a disk, and nodes have no such folder."
    if is_hub_name(plain):
        return ""
    return _form_fault(plain)


def is_hub_name(name: str) -> bool:
    """Whether a repository on the Hub can have this name, with or without its owner."""
    return (
        len(name.rpartition("/")[2]) <= _LONGEST_NAME
        and re.fullmatch(_HUB_NAME, name) is not None
        and not any(pair in name for pair in ("--", ".."))
        and not name.endswith(".git")
    )


@functools.lru_cache(maxsize=256)
def other_kind(name: str) -> OtherKind | None:
    """Return the sign that a base model has another network than the training code takes, or None.

    The code has one text encoder and hands the UNet four channels and nothing else.
    """
    plain = _without_wishes(name)
    owner, _, repository = plain.rpartition("/")
    if owner.lower() in _OTHER_OWNERS or any(_is_copy(repository, known) for known in _OTHER_REPOSITORIES):
        return OtherKind(sign=repository.lower(), is_certain=True)
    words = _words(plain)
    sign = _first_in(words, _OTHER_INPUTS)
    if not sign and not _first_in(words, _RIGHT_WORDS):
        sign = _first_in(words, _OTHER_FAMILIES)
    return OtherKind(sign=sign, is_certain=False) if sign else None


@functools.lru_cache(maxsize=256)
def base_model(name: str) -> BaseModel:
    """Return what the name of a base model tells of it; models that everybody knows are known whoever copied them."""
    plain = _without_wishes(name)
    repository = plain.lower().rpartition("/")[2]
    for known, model in _KNOWN:
        if _fits(repository, known):
            return model
    words = _words(plain)
    is_first, is_second = (bool(_first_in(words, phrases)) for phrases in (_FIRST_WORDS, _SECOND_WORDS))
    # Words tell the generation well enough for a size. What somebody made of a model may predict and measure otherwise.
    return BaseModel() if is_first is is_second else BaseModel(family="1.x" if is_first else "2.x")


def _without_wishes(name: str) -> str:
    """Return the name of a base model without what an emulated network is told by it."""
    rest, slash, last = name.rpartition("/")
    while slash and (last in _WISHES or _is_size(last)):
        name = rest
        rest, slash, last = name.rpartition("/")
    return name


def _is_size(word: str) -> bool:
    size = word.removeprefix(_SIZE_WISH)
    return size != word and size.isascii() and size.isdigit()


def _is_plain(name: str) -> bool:
    """Whether it is owner/name, or a name alone, of letters, digits and single "-" and "_": that may be on the Hub."""
    parts = name.split("/")
    return len(parts) <= 2 and all(map(_is_plain_part, parts))


def _is_plain_part(part: str) -> bool:
    letters = part.replace("-", "").replace("_", "")
    is_in_letters = letters.isascii() and letters.isalnum() and part[0].isalnum() and part[-1].isalnum()
    return is_in_letters and "--" not in part and len(part) <= _LONGEST_NAME


def _is_copy(repository: str, known: str) -> bool:
    """Whether it is called like a known model, and what its name has besides speaks of no model that can be trained."""
    if not _fits(repository.lower(), known):
        return False
    # pony-diffusion-v6-sd15 is somebody's own. Words of the known name itself are no sign: diffusion-2-1-unclip*.
    return not _first_in(_words(repository[len(_beginning(known)) :]), _RIGHT_WORDS)


def _fits(name: str, pattern: str) -> bool:
    """Whether a name fits a pattern; only one that begins alike is compiled, and a first submit waits for no other."""
    return name.startswith(_beginning(pattern)) and fnmatchcase(name, pattern)


def _beginning(pattern: str) -> str:
    """What every name that fits a pattern begins with."""
    return pattern.partition("*")[0].partition("[")[0]


def _form_fault(name: str) -> str:
    if name.count("/") > 1:
        return "It has more than two parts, and names on Hugging Face are owner/name."
    if re.fullmatch(r"[\w./-]+[@:][\w./-]+", name):
        return "Neither revision nor variant belong into the name: they are model_revision and model_variant."
    if len(name.rpartition("/")[2]) > _LONGEST_NAME:
        return f"Names on Hugging Face have at most {_LONGEST_NAME} characters after their owner."
    return "Names on Hugging Face are owner/name, of letters, digits and single '-', '_' and '.' between them."


def _words(name: str) -> str:
    """The words of a repository's name in small letters, with a space around each."""
    found: Sequence[str] = _WORD.findall(name.rpartition("/")[2])
    return f" {' '.join(word.lower() for word in found)} "


def _first_in(words: str, phrases: Sequence[str]) -> str:
    return next((phrase for phrase in phrases if f" {phrase} " in words), "")
