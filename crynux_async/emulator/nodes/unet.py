"""The modules of Stable Diffusion 1.5's UNet, which of them a LoRA can train, and the tensors that come of it.

Names and shapes follow from the block structure: three blocks with attention and one without on the way down, a middle
block, and the mirror image on the way up, where every residual block also takes what was put aside on the way down.

Source: diffusers UNet2DConditionModel with the configuration of stable-diffusion-v1-5; peft
tuners_utils.check_target_module_exists; diffusers convert_state_dict_to_diffusers (two naming styles).
"""

import asyncio
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal

import attrs

from crynux_async.emulator.nodes.patterns import matching
from crynux_async.emulator.nodes.task_args import TargetModules

_ATTENTION = ("to_k", "to_out.0", "to_q", "to_v")
_ALL_LINEAR = "all-linear"

Shape = tuple[int, ...]

# What stands beside a layer of that name in the same module: norms, dropouts, activations.
_BESIDE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "conv1": ("norm1", "norm2", "dropout", "nonlinearity"),
        "proj_in": ("norm", *(f"transformer_blocks.0.{name}" for name in ("norm1", "norm2", "norm3", "ff.net.1"))),
        "to_k": ("to_out.1",),
    }
)


@attrs.frozen(kw_only=True)
class Module:
    """A linear or convolution layer.

    Attributes:
        name: Its path inside the UNet.
        inputs: Input features or channels.
        outputs: Output features or channels.
        kernel: Side of the kernel of a convolution; None for a linear layer.
    """

    name: str
    inputs: int
    outputs: int
    kernel: int | None = None

    def tensors(self, rank: int) -> tuple[tuple[str, Shape], tuple[str, Shape]]:
        """Return name and shape of its two LoRA tensors, the down one first.

        Args:
            rank: The LoRA's rank, >= 1.

        Returns:
            ``[rank, inputs]`` and ``[outputs, rank]``, with two more axes for a convolution.
        """
        down, up = ("lora.down", "lora.up") if self.name.endswith(_ATTENTION) else ("lora_A", "lora_B")
        kernel = () if self.kernel is None else (self.kernel, self.kernel)
        # PEFT's up half of a convolution has a kernel of 1 by 1.
        point = () if self.kernel is None else (1, 1)
        return (
            (f"unet.{self.name}.{down}.weight", (rank, self.inputs, *kernel)),
            (f"unet.{self.name}.{up}.weight", (self.outputs, rank, *point)),
        )


@attrs.frozen(kw_only=True)
class Unet:
    """A UNet built like Stable Diffusion 1.5's.

    Attributes:
        widths: Channels of the four levels.
        context: Features of the text embedding.
        modules: Every layer that can be trained.
        others: The names of all other modules: whatever holds layers, norms, dropouts, activations.
    """

    widths: tuple[int, int, int, int] = (320, 640, 1280, 1280)
    context: int = 768
    modules: tuple[Module, ...] = attrs.field(init=False, repr=False)

    others: frozenset[str] = attrs.field(init=False, repr=False)
    _layers: Mapping[str, Module] = attrs.field(init=False, repr=False)

    @modules.default
    def _build(self) -> tuple[Module, ...]:
        return tuple(_unet(self.widths, self.context))

    @others.default
    def _name_others(self) -> frozenset[str]:
        return frozenset(_others(self.modules))

    @_layers.default
    def _name_layers(self) -> Mapping[str, Module]:
        return {module.name: module for module in self.modules}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all modules, layers or not, as the node's code goes through them."""
        return (*self._layers, *sorted(self.others))

    def targeted(self, target_modules: TargetModules) -> tuple[Module, ...]:
        """Return the layers that ``target_modules`` selects, as PEFT does: () when it would raise.

        A regular expression that was not asked for before takes a process, and at most a quarter of a second of its
        time.

        Args:
            target_modules: Ends of names, a regular expression for whole names, "all-linear", or None.
        """
        if not target_modules:
            return ()
        if isinstance(target_modules, str) and target_modules.lower() == _ALL_LINEAR:
            return tuple(module for module in self.modules if module.kernel is None)
        chosen = self._chosen(target_modules)
        # PEFT stops at the first module that is no layer.
        is_bad = chosen is None or not self.others.isdisjoint(chosen)
        return () if chosen is None or is_bad else tuple(module for module in self.modules if module.name in chosen)

    async def learn(self, target_modules: TargetModules) -> None:
        """Find out what ``target_modules`` selects without holding anybody up; ``targeted`` knows it then."""
        if isinstance(target_modules, str):
            await asyncio.to_thread(self.targeted, target_modules)

    def _chosen(self, target_modules: tuple[str, ...] | str) -> frozenset[str] | None:
        if isinstance(target_modules, str):
            return matching(target_modules, self.names)
        wanted = frozenset(target_modules)
        return frozenset(name for name in self.names if not wanted.isdisjoint(_endings(name)))


def _endings(name: str) -> Iterator[str]:
    """Yield a name and each part of it that begins after a dot."""
    while name:
        yield name
        name = name.partition(".")[2]


def _others(modules: tuple[Module, ...]) -> Iterator[str]:
    """Yield the names of all modules that are no linear or convolution layer."""
    yield from ("time_proj", "time_embedding.act", "conv_norm_out", "conv_act")
    for module in modules:
        parts = module.name.split(".")
        yield from (".".join(parts[:end]) for end in range(1, len(parts)))
        parent, _, last = module.name.rpartition(".")
        yield from (f"{parent}.{name}" for name in _BESIDE.get(last, ()))


def _unet(widths: tuple[int, ...], context: int) -> Iterator[Module]:
    time = 4 * widths[0]  # time_embed_dim of UNet2DConditionModel
    yield Module(name="conv_in", inputs=4, outputs=widths[0], kernel=3)
    yield Module(name="time_embedding.linear_1", inputs=widths[0], outputs=time)
    yield Module(name="time_embedding.linear_2", inputs=time, outputs=time)
    yield from _down(widths, context, time)
    for index in range(2):
        yield from _resnet(f"mid_block.resnets.{index}", widths[-1], widths[-1], time)
    yield from _transformer("mid_block.attentions.0", widths[-1], context)
    yield from _up(widths[::-1], context, time)
    yield Module(name="conv_out", inputs=widths[0], outputs=4, kernel=3)


def _down(widths: tuple[int, ...], context: int, time: int) -> Iterator[Module]:
    last = len(widths) - 1
    for level, width in enumerate(widths):
        block = f"down_blocks.{level}"
        for index in range(2):
            inputs = width if index or not level else widths[level - 1]
            yield from _resnet(f"{block}.resnets.{index}", inputs, width, time)
            if level < last:
                yield from _transformer(f"{block}.attentions.{index}", width, context)
        if level < last:
            yield Module(name=f"{block}.downsamplers.0.conv", inputs=width, outputs=width, kernel=3)


def _up(widths: tuple[int, ...], context: int, time: int) -> Iterator[Module]:
    last = len(widths) - 1
    for level, width in enumerate(widths):
        block = f"up_blocks.{level}"
        below = widths[max(level - 1, 0)]
        above = widths[min(level + 1, last)]
        for index, (inputs, skipped) in enumerate(((below, width), (width, width), (width, above))):
            yield from _resnet(f"{block}.resnets.{index}", inputs + skipped, width, time)
            if level:
                yield from _transformer(f"{block}.attentions.{index}", width, context)
        if level < last:
            yield Module(name=f"{block}.upsamplers.0.conv", inputs=width, outputs=width, kernel=3)


def _resnet(name: str, inputs: int, outputs: int, time: int) -> Iterator[Module]:
    yield Module(name=f"{name}.conv1", inputs=inputs, outputs=outputs, kernel=3)
    yield Module(name=f"{name}.time_emb_proj", inputs=time, outputs=outputs)
    yield Module(name=f"{name}.conv2", inputs=outputs, outputs=outputs, kernel=3)
    if inputs != outputs:
        yield Module(name=f"{name}.conv_shortcut", inputs=inputs, outputs=outputs, kernel=1)


def _transformer(name: str, width: int, context: int) -> Iterator[Module]:
    yield Module(name=f"{name}.proj_in", inputs=width, outputs=width, kernel=1)
    block = f"{name}.transformer_blocks.0"
    for attention, source in (("attn1", width), ("attn2", context)):
        for part in _ATTENTION:
            inputs = source if part in ("to_k", "to_v") else width
            yield Module(name=f"{block}.{attention}.{part}", inputs=inputs, outputs=width)
    # GEGLU: four times the width, and as much again for the gate.
    yield Module(name=f"{block}.ff.net.0.proj", inputs=width, outputs=8 * width)
    yield Module(name=f"{block}.ff.net.2", inputs=4 * width, outputs=width)
    yield Module(name=f"{name}.proj_out", inputs=width, outputs=width, kernel=1)


SIZES: dict[Literal["sd15", "tiny"], Unet] = {
    "sd15": Unet(),
    "tiny": Unet(widths=(16, 16, 32, 32), context=32),
}
"""The real size, and one with the same modules that makes archives of a hundredth of it."""
