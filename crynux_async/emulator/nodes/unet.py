"""The modules of Stable Diffusion 1.5's UNet that a LoRA can train, and the tensors that come of it.

Names and shapes follow from the block structure: three blocks with attention and one without on the way down, a middle
block, and the mirror image on the way up, where every residual block also takes what was put aside on the way down.

Source: diffusers UNet2DConditionModel with the configuration of stable-diffusion-v1-5; peft
tuners_utils.check_target_module_exists; diffusers convert_state_dict_to_diffusers (two naming styles).
"""

import re
from collections.abc import Iterator
from typing import Literal

import attrs

from crynux_async.emulator.nodes.task_args import TargetModules

_ATTENTION = ("to_k", "to_out.0", "to_q", "to_v")

Shape = tuple[int, ...]


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
    """

    widths: tuple[int, int, int, int] = (320, 640, 1280, 1280)
    context: int = 768
    modules: tuple[Module, ...] = attrs.field(init=False, repr=False)

    @modules.default
    def _build(self) -> tuple[Module, ...]:
        return tuple(_unet(self.widths, self.context))

    def targeted(self, target_modules: TargetModules) -> tuple[Module, ...]:
        """Return the layers that ``target_modules`` selects, as PEFT does: () when it would raise.

        Args:
            target_modules: Ends of names, a regular expression for whole names, "all-linear", or None.
        """
        if not target_modules:
            return ()
        if target_modules == "all-linear":
            return tuple(module for module in self.modules if module.kernel is None)
        if isinstance(target_modules, str):
            try:
                pattern = re.compile(target_modules)
            except re.error:
                return ()
            return tuple(module for module in self.modules if pattern.fullmatch(module.name))
        endings = tuple(f".{name}" for name in target_modules)
        return tuple(module for module in self.modules if f".{module.name}".endswith(endings))


def _unet(widths: tuple[int, ...], context: int) -> Iterator[Module]:
    time = 4 * widths[0]
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
    yield Module(name=f"{block}.ff.net.0.proj", inputs=width, outputs=8 * width)
    yield Module(name=f"{block}.ff.net.2", inputs=4 * width, outputs=width)
    yield Module(name=f"{name}.proj_out", inputs=width, outputs=width, kernel=1)


SIZES: dict[Literal["sd15", "tiny"], Unet] = {
    "sd15": Unet(),
    "tiny": Unet(widths=(16, 16, 32, 32), context=32),
}
"""The real size, and one with the same modules that makes archives of a hundredth of it."""
