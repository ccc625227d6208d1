"""The example that paints with diffusers, run as it is: one picture of each model stands in the page."""

import asyncio
import importlib.util
import os
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "preview_images.py"
NEEDED = ("torch", "diffusers", "transformers", "peft", "accelerate")

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in NEEDED),
        reason="diffusers is not installed: pip install '.[test-diffusers]'",
    ),
]


async def test_example_paints_every_model_into_the_page(tmp_path: Path) -> None:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLE), cwd=tmp_path, env=env, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert out.decode().count(" done") == 4
    page = (tmp_path / "painted.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == 4
