"""The files of a result archive: what they are called, what they are, and how large a training can make them.

The one home of these names. Whoever emulates a node has its own, because it must not believe what it is there to judge.

A training that diverged leaves nothing but one number, the same NaN everywhere, and that packs a thousand to one; so
does what was never trained. How well something packs does not make it a bomb, then: the LoRA may have any size that its
own header accounts for, and the optimizer's state any size that goes with that LoRA. What nothing accounts for may not
unpack to much more than it takes.

Source: stable-diffusion-task finetune_lora.py (the checkpoint folder); accelerate checkpointing.py (scaler.pt).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from crynux_async.archive.zip_members import ArchiveLimits, Member

WEIGHTS: Final = "pytorch_lora_weights.safetensors"
OPTIMIZER: Final = "optimizer.bin"
STEP: Final = "global_step.txt"
FINISH: Final = "FINISH"

PURPOSES: Mapping[str, str] = MappingProxyType(
    {
        WEIGHTS: "the LoRA",
        STEP: "how many steps were made",
        FINISH: "mark of a complete training",
        OPTIMIZER: "optimizer state",
        "scheduler.bin": "learning rate state",
        "random_states_0.pkl": "random number state",
        "scaler.pt": "gradient scaler state",
    }
)
"""What each file that a node writes is for, by its name."""

_PICKLES = (".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt")
# Adam keeps two numbers for each that is trained; where those are half as wide as its own, that is four times the size.
_OPTIMIZER_SHARE = 4


def is_pickle(name: str) -> bool:
    """Whether a file of this name can run code when it is loaded."""
    return name.endswith(_PICKLES)


def check_packing(members: Mapping[str, Member], limits: ArchiveLimits) -> None:
    """Refuse what unpacks to much more than it takes and than a training accounts for.

    Args:
        members: The files inside, by name.
        limits: How much is accepted.

    Raises:
        ValueError: It is a ZIP bomb.
    """
    weights = members[WEIGHTS].size_bytes if WEIGHTS in members else 0
    accounted = {WEIGHTS: weights, OPTIMIZER: _OPTIMIZER_SHARE * weights}
    others = [member for name, member in members.items() if member.size_bytes > accounted.get(name, 0)]
    for member in others:
        _check_ratio(member.name, member.size_bytes, member.packed_bytes, limits)
    size, packed = sum(each.size_bytes for each in others), sum(each.packed_bytes for each in others)
    _check_ratio("the whole of what no training accounts for", size, packed, limits)


def _check_ratio(what: str, size: int, packed: int, limits: ArchiveLimits) -> None:
    if size > limits.ratio_free_bytes and size > limits.ratio * packed:
        raise ValueError(f"{what} packs {size} bytes into {packed}, more than {limits.ratio} to 1: a ZIP bomb")
