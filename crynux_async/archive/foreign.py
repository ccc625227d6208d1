"""Safetensors files that are no LoRA of Stable Diffusion 1.x or 2.x, told apart by the names in their headers.

People keep all their models in one folder. Being told that a tensor is not part of a UNet LoRA helps nobody who has
given a checkpoint by mistake; so a file that is refused is looked at once more, for what it is.

Source: names as kohya-ss sd-scripts, LyCORIS, peft, diffusers and the checkpoints themselves write them.
"""

from collections.abc import Mapping
from types import MappingProxyType

# The first that is found counts; each is the beginning or the end of a tensor's name in the JSON of a header.
_SIGNS: Mapping[bytes, str] = MappingProxyType(
    {
        b'"model.diffusion_model.': "a whole checkpoint, not a LoRA",
        b'"lora_te1_': "a LoRA of Stable Diffusion XL",
        b'"lora_te2_': "a LoRA of Stable Diffusion XL",
        b'"lora_unet_input_blocks_': "a LoRA of Stable Diffusion XL",
        b'"lora_unet_double_blocks_': "a LoRA of Flux",
        b'"lora_unet_single_blocks_': "a LoRA of Flux",
        b'"transformer.': "a LoRA of a transformer, such as Flux or Stable Diffusion 3",
        b".hada_w1_a": "a LoHa (LyCORIS), whose update is not B A",
        b".lokr_w1": "a LoKr (LyCORIS), whose update is not B A",
        b".oft_blocks": "an OFT, whose update is not B A",
        b".dora_scale": "a DoRA, whose update is not B A alone",
        b".lora_magnitude_vector": "a DoRA, whose update is not B A alone",
        b".lora_mid.": "a LoCon with a third factor in the middle (LyCORIS), whose update is not B A",
        b'"emb_params"': "a textual inversion, not a LoRA",
        b'"control_model.': "a ControlNet, not a LoRA",
        b'"down_blocks.0.resnets.0.conv1.weight"': "a whole UNet, not a LoRA",
        b'"first_stage_model.': "a VAE, not a LoRA",
        b'"decoder.mid': "a VAE, not a LoRA",
    }
)

BEGINNING_BYTES = 64
"""How much of a file tells what it is."""

# What people have in place of a model, by the beginning of the file.
_BEGINNINGS: Mapping[bytes, str] = MappingProxyType(
    {
        b"version https://git-lfs": "Git's note about a large file, not the file; `git lfs pull` fetches it",
        b"<!doctype": "a web page: what was saved is the page about the file, or one that asks for a login",
        b"<html": "a web page: what was saved is the page about the file, or one that asks for a login",
        b"{": "a text in JSON, such as the answer of a server that refused",
        b"\x80\x02": "a pickle, such as a checkpoint in .pt or .ckpt, which may run code when it is loaded",
        b"7z\xbc\xaf": "an archive of 7-Zip",
        b"Rar!": "an archive of RAR",
        b"\x1f\x8b": "compressed with gzip",
    }
)


def recognise_file(begin: bytes) -> str | None:
    """Return what a file is that is neither a ZIP nor in the safetensors format.

    Args:
        begin: Its first bytes.

    Returns:
        Such as "a web page", with what to make of it, or None.
    """
    plain = begin.lstrip(b" \t\r\n\xef\xbb\xbf").lower()
    return next((what for sign, what in _BEGINNINGS.items() if plain.startswith(sign.lower())), None)


def recognise(header: bytes) -> str | None:
    """Return what a file is that could not be read as a LoRA.

    Args:
        header: The JSON of its header.

    Returns:
        Such as "a whole checkpoint, not a LoRA", or None.
    """
    return next((what for sign, what in _SIGNS.items() if sign in header), None)
