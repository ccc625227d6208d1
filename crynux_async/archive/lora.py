"""The LoRA inside a safetensors file: which tensors belong together, and what they are called.

A LoRA changes the weight W of a module to W + (alpha / rank) B A, with A of shape [rank, in_features] and B of shape
[out_features, rank]. The nodes' training code writes two naming styles, mixed in one file: ``lora.down`` and
``lora.up`` for the attention projections, ``lora_A`` and ``lora_B`` for every other module. Its alpha equals its rank,
so that B A is the whole change; see ``scaling`` for files that say otherwise.

Source: stable-diffusion-task finetune_lora.py; diffusers src/diffusers/utils/state_dict_utils.py (PEFT_TO_DIFFUSERS).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import attrs

from crynux_async.archive.naming import path_of
from crynux_async.archive.safetensors import TensorInfo, giving_way
from crynux_async.archive.scaling import Scaling

ALPHA = ".alpha"
"""What the name of a tensor ends in that is the alpha of a module."""

PEFT_PREFIX = "base_model.model."
"""What peft puts in front of each name in ``adapter_model.safetensors``."""

_PREFIX = "unet."
_KOHYA = ((".lora_down.weight", True), (".lora_up.weight", False))
_DOWN = (".lora.down.weight", ".lora_A.weight")
_UP = (".lora.up.weight", ".lora_B.weight")
_MODULE = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*")
_MOST_NAME_CHARS = 256

_BLOCK = re.compile(r"(?:down_blocks|up_blocks)\.[0-9]+|[^.]+")
_INSIDE = re.compile(
    r"(?:text_encoder\.text_model\.encoder\.layers\.[0-9]+\.)?"
    r"(?:(?:down_blocks|up_blocks)\.[0-9]+\.|mid_block\.)?"
    r"(?:(?:attentions|resnets|downsamplers|upsamplers|transformer_blocks)\.[0-9]+\.)*"
    r"(?:attn[0-9]+\.)?"
)


@attrs.frozen(kw_only=True)
class LoraModule:
    """One module of the UNet that was trained.

    Attributes:
        name: Its path inside the UNet, such as ``mid_block.attentions.0.transformer_blocks.0.attn1.to_q``.
        down: Name of the tensor A, as the file has it.
        up: Name of the tensor B, as the file has it.
        rank: Rows of A and columns of B.
        in_features: Columns of A; for a convolution its input channels.
        out_features: Rows of B; for a convolution its output channels.
        kernel: Height and width of a convolution's kernel; () for a linear layer.
        alpha: B A counts alpha / rank, > 0. Equal to the rank in a node's file.
    """

    name: str
    down: str
    up: str
    rank: int
    in_features: int
    out_features: int
    kernel: tuple[int, ...] = ()
    alpha: float

    @property
    def scale(self) -> float:
        """By how much B A is multiplied."""
        return self.alpha / self.rank

    @property
    def block(self) -> str:
        """The part of the UNet it belongs to: ``down_blocks.0``, ``mid_block``, ``up_blocks.3``, ``conv_in``."""
        found = _BLOCK.match(self.name)
        return found.group() if found else self.name

    @property
    def target(self) -> str:
        """Its name among ``target_modules``: ``to_k``, ``to_out.0``, ``proj_in``, ``ff.net.0.proj``, ``conv1``."""
        found = _INSIDE.match(self.name)
        return self.name[found.end() :] if found else self.name


def pair_modules(
    tensors: Mapping[str, TensorInfo],
    scaling: Scaling,
    alphas: Mapping[str, float] = MappingProxyType({}),
    *,
    foreign: bool = False,
) -> Mapping[str, LoraModule]:
    """Put the two tensors of each module together.

    Args:
        tensors: The tensors by name, as the header has them, without alphas.
        scaling: What the header says about alpha.
        alphas: What tensors of the file say about alpha, by module; it counts before ``scaling``.
        foreign: Whether names that no node writes are known too: those of the kohya layout, of peft, and without the
            prefix of the UNet.

    Returns:
        The modules by name, in the order in which the file first names them; unchangeable.

    Raises:
        ValueError: When a tensor is not part of a UNet LoRA, has no partner or one whose shape or dtype does not fit.
    """
    downs: dict[str, str] = {}
    ups: dict[str, str] = {}
    for tensor in giving_way(tensors):
        module, is_down = _split_foreign(tensor) if foreign else _split(tensor)
        half = downs if is_down else ups
        if module in half:
            raise ValueError(f"{module} is there in both naming styles: {half[module]} and {tensor}")
        half[module] = tensor
    if lonely := sorted(downs.keys() ^ ups.keys()):
        raise ValueError(f"{len(lonely)} modules have only one of their two tensors, the first is {lonely[0]}")
    if unknown := sorted(alphas.keys() - downs.keys()):
        raise ValueError(f"{len(unknown)} alphas belong to no module, the first is that of {unknown[0]}")

    def alpha_of(name: str, rank: int) -> float:
        return alphas.get(name) or scaling.alpha_of(name, rank)

    pairs = ((name, down, ups[name]) for name, down in giving_way(downs.items()))
    return MappingProxyType({name: _pair(name, down, up, tensors, alpha_of) for name, down, up in pairs})


def module_of_alpha(tensor: str) -> str:
    """Return the module's path to which a tensor that is an alpha belongs.

    Args:
        tensor: Its name.

    Raises:
        ValueError: It belongs to no module of Stable Diffusion.
    """
    module = path_of(tensor.removesuffix(ALPHA))
    if module is None:
        raise ValueError(f"the tensor {tensor[:200]!r} is not part of a UNet LoRA")
    return module


def _split_foreign(tensor: str) -> tuple[str, bool]:
    """Return the same as ``_split``, for the names of other programs."""
    for suffix, is_down in _KOHYA:
        module = path_of(tensor.removesuffix(suffix)) if tensor.endswith(suffix) else None
        if module is not None:
            return module, is_down
    bare = tensor.removeprefix(PEFT_PREFIX)
    return _split(bare if bare.startswith(_PREFIX) else f"{_PREFIX}{bare}", written=tensor)


def _split(tensor: str, *, written: str | None = None) -> tuple[str, bool]:
    """Return the module's path and whether it is the A of its pair; ``written`` is its name as the file has it."""
    is_down = tensor.endswith(_DOWN)
    for suffix in _DOWN if is_down else _UP:
        module = tensor.removeprefix(_PREFIX).removesuffix(suffix)
        # removeprefix and removesuffix do not say whether there was anything to remove.
        if tensor == f"{_PREFIX}{module}{suffix}" and _is_path(module):
            return module, is_down
    raise ValueError(f"the tensor {(written or tensor)[:200]!r} is not part of a UNet LoRA")


def _is_path(module: str) -> bool:
    # ".lora" inside a path would be taken for the end of the path by those who load the file.
    return len(module) <= _MOST_NAME_CHARS and _MODULE.fullmatch(module) is not None and ".lora" not in f".{module}"


def _pair(
    name: str, down: str, up: str, tensors: Mapping[str, TensorInfo], alpha_of: Callable[[str, int], float]
) -> LoraModule:
    a, b = tensors[down], tensors[up]
    if len(a.shape) < 2:
        raise ValueError(f"the shape of {down} is not a matrix's")
    rank = a.shape[0]
    if len(a.shape) != len(b.shape) or b.shape[1] != rank or any(size != 1 for size in b.shape[2:]):
        raise ValueError(f"the shapes of {name} do not fit: {list(a.shape)} and {list(b.shape)}")
    if a.dtype != b.dtype:
        raise ValueError(f"the dtypes of {name} differ: {a.dtype} and {b.dtype}")
    return LoraModule(
        name=name,
        down=down,
        up=up,
        rank=rank,
        in_features=a.shape[1],
        out_features=b.shape[0],
        kernel=a.shape[2:],
        alpha=alpha_of(name, rank),
    )


def matcher(target_modules: str | Sequence[str]) -> Callable[[str], bool]:
    """Return the rule by which the nodes choose modules.

    Args:
        target_modules: Names, each matching a module of that name or one that ends in ``.name``; or one text, which
            is a regular expression for the whole path, or ``all-linear``.

    Returns:
        A function that tells whether a module's path is chosen. A broken regular expression chooses nothing.

    Source: peft src/peft/tuners/tuners_utils.py, check_target_module_exists.
    """
    if target_modules == "all-linear":
        return lambda _: True
    if isinstance(target_modules, str):
        try:
            pattern = re.compile(target_modules)
        except re.error:
            return lambda _: False
        return lambda module: pattern.fullmatch(module) is not None
    endings = tuple(f".{name}" for name in target_modules)
    return lambda module: f".{module}".endswith(endings)
