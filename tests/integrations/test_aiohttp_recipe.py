"""The recipe for aiohttp's own server in docs/web.md, run as it stands there."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from crynux_async.testing import running_emulator
from tests.documents import block_with
from tests.integrations.web_lab import GOOD

pytestmark = pytest.mark.real_time


def recipe() -> dict[str, Any]:
    """Return what the block defines."""
    names: dict[str, Any] = {"__name__": "recipe"}
    exec(block_with("web.AppKey").text, names)
    return names


async def test_recipe_submits_once_streams_events_and_ends_its_streams_when_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = recipe()
    async with running_emulator(speed=0.001) as bridge:
        settings: Any = bridge.settings()
        for name, value in settings.items():
            monkeypatch.setenv(f"CRYNUX_{name.upper()}", str(value))
        runner = web.AppRunner(names["application"]())
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
            answers = [await client.post("/jobs", json=GOOD, headers={"Idempotency-Key": "k"}) for _ in range(2)]
            jobs = [await answer.json() for answer in answers]
            assert jobs[0]["job_id"] == jobs[1]["job_id"]
            assert (await client.get("/jobs/j0/events")).status == 404
            async with client.get(f"/jobs/{jobs[0]['job_id']}/events") as stream:
                assert await stream.content.readline() == b"id: 1\n"
                ended = asyncio.create_task(runner.cleanup())
                rest = await stream.read()
            await ended
    told = [json.loads(line.removeprefix(b"data: ")) for line in rest.splitlines() if line.startswith(b"data: ")]
    assert told[0]["kind"] == "JobQueued"
