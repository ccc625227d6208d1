"""The public how-to's own script, word for word, against the emulator."""

import asyncio
import sys
import zipfile
from pathlib import Path

import pytest

from crynux_async.emulator import Emulator

SCRIPT = Path(__file__).parent.parent / "data" / "howto_script.py.txt"
KEY = "q3hXHA_8O0LuGJ1_tou4_KamMlQqAo-aYwyAIDttdmI="

pytestmark = pytest.mark.real_time


def script_for(url: str, key: str) -> str:
    """Return the script with the address, the key and the sleep changed, and nothing else."""
    text = SCRIPT.read_text()
    changes = {
        'base_url="https://bridge.crynux.io"': f'base_url="{url}"',
        f'"{KEY}"': f'"{key}"',
        "time.sleep(60)": "time.sleep(0.2)",
    }
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


async def run_script(text: str, folder: Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "ignore",
        "-c",
        text,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, (out + err).decode()


async def test_howto_script_with_a_primed_key_downloads_its_model(tmp_path: Path) -> None:
    async with Emulator(speed=1000, rate_limit=60) as bridge:
        code, said = await run_script(script_for(bridge.url, bridge.new_key(primed=True)), tmp_path)
    assert code == 0, said
    assert "Fine-tuned model downloaded as finetuned_model.zip" in said
    with zipfile.ZipFile(tmp_path / "finetuned_model.zip") as archive:
        assert "pytorch_lora_weights.safetensors" in archive.namelist()
        assert archive.testzip() is None


async def test_howto_script_with_a_fresh_key_can_never_download_its_model(tmp_path: Path) -> None:
    async with Emulator(speed=1000, rate_limit=60) as bridge:
        code, said = await run_script(script_for(bridge.url, bridge.new_key(primed=False)), tmp_path)
    assert code != 0
    assert "Task completed successfully" in said
    assert "400 Bad Request" in said
