"""The emulator against the real bridge's recorded answers, word for word."""

import asyncio
import json
import re
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from crynux_async.emulator import Emulator

RECORDED: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "bridge" / "recorded.json").read_text(encoding="utf-8")
)
ANSWERS = 75
SCHEMA_URL = re.compile(r"https://[^#\s]*/schema/stable-diffusion-finetune-lora-task\.json(?=#)")
PLACEHOLDERS = [
    (re.compile(r'"id":[1-9]\d*(?=,"(?:created_at|status)")'), '"id":"<JOB>"'),
    (re.compile(r'(?<=_at":)"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)"'), '"<TIME>"'),
    (re.compile(r'"client_id":[1-9]\d*'), '"client_id":"<INT>"'),
    (SCHEMA_URL, "<SCHEMA>"),
]
WAIT = re.compile(r"(\d+\.\d\d) seconds")


class Replay:
    """Sends the steps of one scenario and renders what comes back in the recording's own terms."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str) -> None:
        self._session = session
        self._url = url
        self._key = key
        self._jobs: dict[str, int] = {}

    async def answer(self, step: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(step.get("sleep", 0))
        answer = await self._send(step)
        while "poll_until" in step and f'"status":"{step["poll_until"]}"' not in answer["body"]:
            await asyncio.sleep(5)
            answer = await self._send(step)
        return answer

    async def _send(self, step: dict[str, Any]) -> dict[str, Any]:
        async with self._session.request(
            step["method"],
            self._url + re.sub(r"\{JOB:(\w+)\}", lambda match: str(self._jobs[match[1]]), step["path"]),
            data=json.dumps(step["json"]) if "json" in step else step.get("raw"),
            headers=self._headers(step),
            skip_auto_headers=["Content-Type"],
            allow_redirects=False,
        ) as response:
            body = await response.read()
            if step["method"] == "POST" and response.status == 200:
                self._jobs[step["name"]] = json.loads(body)["data"]["id"]
            return {
                "status": response.status,
                "headers": recorded_headers(response, step["response"]["headers"]),
                "body": recorded_body(body, step["response"]["body"]),
            }

    def _headers(self, step: dict[str, Any]) -> dict[str, str]:
        headers = step.get("headers", {"Authorization": "Bearer {KEY}"})
        sent = {name: value.replace("{KEY}", self._key) for name, value in headers.items()}
        if "json" in step or "raw" in step:
            sent.setdefault("Content-Type", "application/json")
        return sent


def recorded_headers(response: aiohttp.ClientResponse, wanted: dict[str, str]) -> dict[str, str]:
    """Return the headers that were recorded, sizes that differ from archive to archive as <N>."""
    headers = {}
    for name, value in wanted.items():
        got = response.headers.get(name, "(absent)")
        headers[name] = re.sub(r"\d+$", "<N>", got) if value.endswith("<N>") else got
    if "Content-Type" not in wanted and "Content-Type" in response.headers:
        headers["Content-Type"] = response.headers["Content-Type"]
    return headers


def recorded_body(body: bytes, wanted: str) -> str:
    """Return a body in the recording's terms."""
    if wanted == "<zip>":
        with zipfile.ZipFile(BytesIO(body)) as archive:
            return "<zip>" if archive.testzip() is None else "(damaged)"
    if re.fullmatch(r"<\d+ bytes>", wanted):
        return f"<{len(body)} bytes>"
    text = body.decode()
    for pattern, placeholder in PLACEHOLDERS:
        text = pattern.sub(placeholder, text)
    return WAIT.sub(lambda match: f"~{float(match[1]):.0f} seconds", text)


async def replay(scenario: dict[str, Any]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Return name, recorded and emulated answer of every step of a scenario."""
    key_options = {"roles": ["chat"], "rate_limit": 1, "use_limit": 20, "primed": False, **scenario["key"]}
    async with Emulator(unet="tiny") as emulator, aiohttp.ClientSession() as session:
        player = Replay(session, emulator.url, emulator.new_key(**key_options))
        return [(step["name"], step["response"], await player.answer(step)) for step in scenario["steps"]]


@pytest.mark.parametrize("scenario", RECORDED, ids=[scenario["name"] for scenario in RECORDED])
async def test_answers_of_scenario_equal_the_recording(scenario: dict[str, Any]) -> None:
    compared = await replay(scenario)
    assert [(name, emulated) for name, _, emulated in compared] == [(name, real) for name, real, _ in compared]


async def test_recording_is_compared_in_full() -> None:
    equal = [real == emulated for scenario in RECORDED for _, real, emulated in await replay(scenario)]
    assert (len(equal), sum(equal)) == (ANSWERS, ANSWERS)
