"""Verdicts on real trainings: thirty steps of a small UNet at eight learning rates, with torch, diffusers and peft.

The table stood before the first run.
"""

import os
import warnings
from pathlib import Path
from typing import Any

import pytest

from crynux_async.archive import LoraArchive, Verdict
from tests.archive_files import WEIGHTS

os.environ["HF_HUB_OFFLINE"] = "1"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch: Any = pytest.importorskip("torch", reason="torch is not installed: pip install '.[test-diffusers]'")
    diffusers: Any = pytest.importorskip("diffusers", reason="diffusers is not installed")
    peft: Any = pytest.importorskip("peft", reason="peft is not installed")
    st: Any = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS, RANK = 30, 4
TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]

PREDICTED: dict[float, Verdict] = {
    1e-6: "faint",
    1e-5: "faint",
    1e-4: "usual",
    3e-4: "usual",
    1e-3: "usual",
    1e-2: "strong",
    1e-1: "diverged",
    1.0: "diverged",
}


def train(rate: float) -> dict[str, Any]:
    """Train as a node's code does, in small: AdamW, clipped gradients, noise to be foretold."""
    torch.manual_seed(7)
    widths = (32, 64, 128, 128)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=widths, cross_attention_dim=64, norm_num_groups=8, attention_head_dim=8
    )
    unet.requires_grad_(False)
    unet.add_adapter(peft.LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=TARGETS))
    trained = [weight for weight in unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    noising = diffusers.DDPMScheduler(num_train_timesteps=1000)
    draw = torch.Generator().manual_seed(3)
    images, texts = torch.randn(4, 4, 8, 8, generator=draw), torch.randn(4, 7, 64, generator=draw)
    for step in range(STEPS):
        image, text = (each[step % 4 : step % 4 + 1] for each in (images, texts))
        noise, time = torch.randn(1, 4, 8, 8, generator=draw), torch.randint(0, 1000, (1,), generator=draw)
        found = unet(noising.add_noise(image, noise, time), time, encoder_hidden_states=text).sample
        torch.nn.functional.mse_loss(found, noise).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    saved = peft.get_peft_model_state_dict(unet)
    return {f"unet.{name}": tensor.detach().contiguous() for name, tensor in saved.items()}


@pytest.mark.parametrize(("rate", "verdict"), PREDICTED.items())
def test_verdict_is_the_one_that_was_foretold(rate: float, verdict: Verdict, tmp_path: Path) -> None:
    path = tmp_path / WEIGHTS
    st.save_file(train(rate), path)
    strength = LoraArchive.open(path).strength()
    assert strength.verdict == verdict, strength.ratio
