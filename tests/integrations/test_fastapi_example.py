"""``examples/fastapi_app.py`` as a person starts it."""

import base64
import json
import re
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.integrations.web_lab import GOOD
from tests.integrations.web_server import running

pytestmark = pytest.mark.real_time

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi_app.py"


def signed_in(name: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{name}-token".encode()).decode()}


async def test_example_trains_what_a_customer_asks_for_and_shows_it_to_nobody_else(tmp_path: Path) -> None:
    where = {"APP_FOLDER": str(tmp_path), "PORT": "0"}
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(str(EXAMPLE), "--emulator", environment=where))
        await server.begun(2)
        address = re.search(rb"running on (\S+)", server.log)
        assert address is not None
        client = await stack.enter_async_context(aiohttp.ClientSession(address[1].decode()))
        ann, bob = signed_in("ann"), signed_in("bob")
        answer = await client.post("/portraits", json=GOOD, headers=ann)
        job = json.loads(await answer.read())
        assert (answer.status, job["group"], job["config"]["rank"]) == (202, "portraits", 16)
        wrong = await client.post("/portraits", json={**GOOD, "rank": -1}, headers=ann)
        said = json.loads(await wrong.read())
        assert (wrong.status, [entry["field"] for entry in said["errors"]]) == (422, ["rank"])
        async with client.get(f"/jobs/{job['job_id']}/events", headers=ann) as stream:
            assert b'"state":"downloaded"' in await stream.read()
        other = await client.get(f"/jobs/{job['job_id']}", headers=bob)
        nobody = await client.get("/jobs")
        archive = await client.get(f"/jobs/{job['job_id']}/archive", headers=ann)
        assert (other.status, nobody.status, archive.status) == (404, 401, 200)
        boards = [await (await client.get("/board", headers=who)).text() for who in (ann, bob)]
        assert [f"/board/jobs/{job['job_id']}" in board for board in boards] == [True, False]
        assert (await archive.read()).startswith(b"PK")
        await server.stop()
    assert b"Traceback" not in server.log
