"""What a node's libraries make of the name of a repository on Hugging Face.

A word in a name is no proof of anything, but an emulated network must decide, and decides by the words.

Source: huggingface_hub utils/_validators.py; stable-diffusion-task finetune_lora.py.
"""

import re

_PART = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_ENDINGS_OF_FILES = (
    *(".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx"),
    *(".zip", ".tar", ".gz", ".parquet", ".csv", ".json", ".jsonl"),
)
_LONGEST = 96

# A word ends where letters become digits or small letters capital ones: RealVisXL_V4 is real, vis, xl, v, 4.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_OTHER_WORDS = frozenset(
    {
        *("xl", "sdxl", "flux", "pixart", "kandinsky", "wuerstchen", "deepfloyd", "hunyuan", "auraflow", "sana"),
    }
)
_OTHER_PHRASES = (
    *("sd 3", "stable diffusion 3", "ssd 1 b", "playground v 2", "stable cascade", "stable video"),
    *("qwen image", "segmind vega"),
)
_OTHER_INPUTS = ("inpaint", "inpainting", "pix 2 pix", "unclip", "upscaler", "diffusion 2 depth")
_RIGHT_PHRASES = (
    *("sd 1", "sd 14", "sd 15", "v 1 4", "v 1 5", "diffusion 1", "diffusion v 1"),
    *("sd 2", "sd 20", "sd 21", "diffusion 2", "diffusion v 2"),
)
_OTHER_OWNERS = ("black-forest-labs/", "deepfloyd/", "efficient-large-model/", "kandinsky-community/", "pixart-alpha/")
# Models that everybody knows, whose names have no such word, or one that is none because of what stands beside it.
_OTHER_MODELS = (
    *("hunyuandit", "kandinsky-", "pony-diffusion-v6", "auraflow", "if-i-", "instruct-pix2pix", "realvisxl_v"),
    *("qwen-image", "stable-video-diffusion-"),
)


def can_exist(name: str) -> bool:
    """Whether a repository can have this name; those that are named like a file have no use here."""
    parts = name.split("/")
    return (
        len(parts) <= 2
        and len(parts[-1]) <= _LONGEST
        and all(_PART.fullmatch(part) for part in parts)
        and "--" not in name
        and ".." not in name
        and not name.endswith(".git")
        and not name.lower().endswith(_ENDINGS_OF_FILES)
    )


def is_other_kind(model_name: str) -> bool:
    """Whether a base model has another network than the code can train, by its name.

    The code has one text encoder and hands the UNet four channels and nothing else.
    """
    repository = model_name.rpartition("/")[2]
    if model_name.lower().startswith(_OTHER_OWNERS) or _is_another_model(repository):
        return True
    phrase = _phrase(repository)
    if _has(phrase, _OTHER_INPUTS):
        return True
    if _has(phrase, _RIGHT_PHRASES):
        return False
    return not _OTHER_WORDS.isdisjoint(phrase.split()) or _has(phrase, _OTHER_PHRASES)


def _is_another_model(repository: str) -> bool:
    """Whether the name begins with a known model's, and does not go on with words of one that the code can train."""
    known = next((known for known in _OTHER_MODELS if repository.lower().startswith(known)), None)
    return known is not None and not _has(_phrase(repository[len(known) :]), _RIGHT_PHRASES)


def _phrase(name: str) -> str:
    return f" {' '.join(word.lower() for word in _WORD.findall(name))} "


def _has(phrase: str, words: tuple[str, ...]) -> bool:
    return any(f" {word} " in phrase for word in words)
