"""The README's recipe for aiohttp's own server, run as it stands there."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from crynux_async import FineTuneConfig, Session
from crynux_async.testing import running_emulator
from tests.integrations.web_lab import GOOD

pytestmark = pytest.mark.real_time


def recipe() -> dict[str, Any]:
    """Return what the README's block defines."""
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(SESSION = web\.AppKey.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {
        "__name__": "recipe",
        "web": web,
        "Session": Session,
        "FineTuneConfig": FineTuneConfig,
        "json": json,
    }
    exec(block, names)
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
        app = web.Application()
        app.cleanup_ctx.append(names["jobs"])
        app.on_shutdown.append(names["stop"])
        app.add_routes([web.post("/jobs", names["submit"]), web.get("/jobs/{id}/events", names["events"])])
        runner = web.AppRunner(app)
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
