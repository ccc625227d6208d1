"""A client of the emulated bridge that knows one key and nothing of the library."""

import json
from typing import Any

import aiohttp

from crynux_async.emulator import Emulator

CONFIG: dict[str, Any] = {
    "model_name": "crynux-ai/stable-diffusion-v1-5",
    "dataset_url": "https://host.example/data.zip",
    "batch_size": 1,
    "num_train_steps": 100,
    "max_train_steps": 200,
    "rank": 4,
    "target_modules": ["to_k", "to_q", "to_v", "to_out.0"],
    "seed": 42,
    "timeout": 1800,
}
FIRST_ROUND, BOTH_ROUNDS = 132, 240
DAY = 86_400


class Client:
    """What a program does with one key."""

    def __init__(self, session: aiohttp.ClientSession, emulator: Emulator, key: str) -> None:
        self._session = session
        self._url = emulator.url
        self._headers = {"Authorization": f"Bearer {key}"}

    async def create(self, **changes: Any) -> tuple[int, dict[str, Any]]:
        return await self.ask("POST", "/v1/images/models", json={**CONFIG, **changes})

    async def new_job(self, **changes: Any) -> int:
        status, answer = await self.create(**changes)
        assert status == 200, answer
        return int(answer["data"]["id"])

    async def status(self, task_id: int) -> str:
        _, answer = await self.ask("GET", f"/v1/images/models/{task_id}/status")
        return str(answer["data"]["status"])

    async def error(self, task_id: int) -> tuple[str, str]:
        """Return field and message of a result that is refused."""
        status, answer = await self.ask("GET", f"/v1/images/models/{task_id}/result")
        assert status == 400, answer
        return answer["data"]["field_name"], answer["data"]["message"]

    async def download(self, task_id: int, **headers: str) -> tuple[int, bytes, str]:
        async with self._get(f"/v1/images/models/{task_id}/result", {**self._headers, **headers}) as response:
            return response.status, await response.read(), response.headers["Last-Modified"]

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
        async with self._session.request(method, self._url + path, headers=self._headers, **options) as response:
            return response.status, json.loads(await response.read())

    def _get(self, path: str, headers: dict[str, str]) -> Any:
        return self._session.get(self._url + path, headers=headers)
