"""A sweep whose page shows what each model paints: the same prompt and noise, rank across, learning rate down.

Run it as is: the service is emulated, and a pipeline in miniature with random weights paints noise, on any machine.
With the name of a base model it paints in earnest: python preview_images.py crynux-ai/stable-diffusion-v1-5
It needs 'crynux-async[archive,report]', torch, diffusers, transformers, accelerate and peft.
"""

import asyncio
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch

from crynux_async import FineTuneConfig, Session
from crynux_async.emulator import Emulator
from crynux_async.sweeps import Report, Sweep, Trial, grid

PROMPT = "a cat on a chair"
SWEEP = Sweep(
    "painted",
    FineTuneConfig(
        model_name="crynux-ai/stable-diffusion-v1-5",
        dataset_url="https://example.com/my-pictures.zip",
        max_train_steps=60,
        timeout=1800,
    ),
    points=grid(rank=[4, 8], learning_rate=[1e-4, 5e-5]),
    folder="crynux-painted",
)


class Painter:
    """Paints one picture with each model, always from the same noise, so that only the models differ."""

    def __init__(self, pipeline: Any, **prompt: Any) -> None:
        self._pipeline = pipeline
        self._prompt = prompt

    def __call__(self, trial: Trial) -> list[bytes]:
        """Return the picture of a trial's model as a PNG file."""
        assert trial.archive is not None
        with tempfile.TemporaryDirectory() as folder:
            weights = trial.archive.export(Path(folder, "lora.safetensors"))
            self._pipeline.load_lora_weights(folder, weight_name=weights.name)
        try:
            noise = torch.Generator().manual_seed(1)
            image = self._pipeline(**self._prompt, num_inference_steps=20, generator=noise).images[0]
        finally:
            self._pipeline.unload_lora_weights()  # the next model must not be painted with this one
        file = io.BytesIO()
        image.save(file, "PNG")
        return [file.getvalue()]


def real_painter(model: str) -> Painter:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Painter(diffusers.StableDiffusionPipeline.from_pretrained(model).to(device), prompt=PROMPT)


def small_painter() -> Painter:
    """Return one with a UNet of Stable Diffusion's build in miniature, as the emulated service trains."""
    torch.manual_seed(1)
    widths = (16, 16, 32, 32)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=widths, cross_attention_dim=32, norm_num_groups=8, attention_head_dim=8
    )
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    pipeline = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(latent_channels=4, block_out_channels=widths, norm_num_groups=8, **blocks),
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    words = torch.randn(1, 77, 32)
    return Painter(pipeline, prompt_embeds=words, negative_prompt_embeds=torch.zeros_like(words))


async def main() -> None:
    given = [word for word in sys.argv[1:] if word != "--emulator"]  # without it, too, the service is an emulated one
    painter = real_painter(given[0]) if given else small_painter()
    report = Report("painted.html", images=painter, across="rank", down="learning_rate")
    async with (
        Emulator(speed=1000, unet="tiny") as emulator,
        Session(**emulator.settings()) as session,
        SWEEP.run(session, report=report) as running,
    ):
        async for trial in running:
            print(trial.number, trial.label, trial.state)
    print(f"Open {report.path}")


if __name__ == "__main__":
    asyncio.run(main())
