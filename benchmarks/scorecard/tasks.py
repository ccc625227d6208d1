"""Tasks that have ended well, and their archives as a client other than ours sees them."""

import asyncio
import hashlib
import io
import os
import random
import shutil
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import attrs

from benchmarks.scorecard.case import Context
from benchmarks.scorecard.worlds import World, on_virtual_time
from crynux_async.emulator import Emulator, RequestRecord
from crynux_async.emulator.nodes.unet import Unet
from crynux_async.emulator.nodes.weights import Lora
from crynux_async.errors import CrynuxError

T = TypeVar("T")

WEIGHTS = "pytorch_lora_weights.safetensors"
IMPATIENT = {"min_poll_interval": 0.01, "poll_delay": 1e-6}
"""Settings under which the end of a task is noticed at once."""

_RATE_LIMIT = 60_000
_INSTANT = 1e9
_A_MOMENT = 0.001
_ARGS = {
    "model_name": "crynux-ai/stable-diffusion-v1-5",
    "dataset_url": "https://example.com/pictures.zip",
    "max_train_steps": 10,
    "target_modules": ["to_k", "to_q", "to_v", "to_out.0"],
    "timeout": 1800,
}


@attrs.frozen(kw_only=True)
class Finished:
    """A task that has ended well.

    Attributes:
        task_id: Its number.
        size: Bytes of its archive.
        sha256: Digest of its archive, in hex.
    """

    task_id: int
    size: int
    sha256: str


def repeat(context: Context, scenario: Callable[[World, random.Random, Path], Awaitable[T]]) -> list[T]:
    """Run a scenario once for each seed, on virtual time, with a bridge whose tasks end at once.

    Args:
        context: Says how often.
        scenario: Gets the bridge, random numbers, and a folder that does not exist yet.
    """
    results: list[T] = []
    for seed in range(1, context.seeds + 1):
        place = context.folder / str(seed)

        async def work(world: World, seed: int = seed, place: Path = place) -> T:
            return await scenario(world, random.Random(seed), place / "out")

        results.append(on_instant_bridge(work, folder=place / "bridge"))
        shutil.rmtree(place)
    return results


def on_instant_bridge(work: Callable[[World], Awaitable[T]], **options: Any) -> T:
    """Run ``work`` on virtual time with a bridge whose tasks end at once."""
    options = {"speed": _INSTANT, "unet": "tiny", "durable": False, **options}
    return on_virtual_time(work, rate_limit=_RATE_LIMIT, **options)


def on_real_time(work: Callable[[World], Awaitable[T]], **options: Any) -> T:
    """Run ``work`` with a bridge whose tasks end at once, in real time, so that other processes can use it."""

    async def main() -> T:
        async with Emulator(rate_limit=_RATE_LIMIT, speed=_INSTANT, unet="tiny", **options) as bridge:
            return await work(World(bridge=bridge, key=bridge.new_key()))

    return asyncio.run(main())


def environment(world: World, **settings: object) -> dict[str, str]:
    """Return the environment of a child process that uses the bridge."""
    chosen = {"base_url": world.bridge.url, "api_key": world.key, **IMPATIENT, **settings}
    return {f"CRYNUX_{name.upper()}": str(value) for name, value in chosen.items()}


def client(world: World) -> aiohttp.ClientSession:
    """Return another client of the bridge, whose requests are told from ours by how they end."""
    headers = {"Authorization": f"Bearer {world.key}", "Connection": "close"}
    return aiohttp.ClientSession(world.bridge.url, headers=headers)


async def create_task(http: aiohttp.ClientSession, *, mebibytes: int = 0, seed: int = 1) -> int:
    """Create a task and return its number.

    Args:
        http: A client of the bridge.
        mebibytes: How much larger than a quarter of a MiB its archive is.
        seed: Other seeds have other archives.
    """
    model = f"{_ARGS['model_name']}/big-{mebibytes}" if mebibytes else _ARGS["model_name"]
    async with http.post("/v1/images/models", json={**_ARGS, "model_name": model, "seed": seed}) as answer:
        answer.raise_for_status()
        return int((await answer.json())["data"]["id"])


async def finish_task(world: World, *, mebibytes: int = 0, seed: int = 1) -> Finished:
    """Create a task that ends at once; arguments as for ``create_task``."""
    async with client(world) as http:
        task_id = await create_task(http, mebibytes=mebibytes, seed=seed)
    await asyncio.sleep(_A_MOMENT)
    return await look_at(world, task_id)


async def look_at(world: World, task_id: int) -> Finished:
    """Return what the archive of a finished task is now."""
    digest = hashlib.sha256()
    size = 0
    async with client(world) as http, http.get(f"/v1/images/models/{task_id}/result") as answer:
        answer.raise_for_status()
        async for piece in answer.content.iter_chunked(1 << 20):
            digest.update(piece)
            size += len(piece)
    return Finished(task_id=task_id, size=size, sha256=digest.hexdigest())


def result_requests(world: World, task: Finished) -> list[RequestRecord]:
    """Return the requests for a result that this library made, in order."""
    path = f"/v1/images/models/{task.task_id}/result"
    return [r for r in world.bridge.requests if r.path == path and r.headers.get("Connection") != "close"]


def starts(world: World, task: Finished) -> list[int]:
    """Return from which byte on each request asked for a result.

    Raises:
        AssertionError: A request for the rest was not conditional on the version.
    """
    found = []
    for request in result_requests(world, task):
        span = request.headers.get("Range")
        assert span is None or "If-Range" in request.headers, "a range was asked for without If-Range"
        found.append(int(span.removeprefix("bytes=").removesuffix("-")) if span else 0)
    return found


def archive_bytes(seed: int, *, extra: int = 0) -> bytes:
    """Return a sound archive of about half a MiB; equal ``extra`` gives equal sizes."""
    return zipped(archive_members(seed, extra=extra))


def archive_members(seed: int, *, extra: int = 0) -> dict[str, bytes]:
    """Return the files of a sound archive."""
    modules = Unet(widths=(8, 16, 32, 32), context=24).targeted(("to_k", "to_q", "to_v", "to_out.0"))
    weights = b"".join(Lora(modules=modules, rank=8, dtype="F32", seed=str(seed)).pieces())
    optimizer = random.Random(seed).randbytes(300_000 + extra)
    return {WEIGHTS: weights, "global_step.txt": b"10", "optimizer.bin": optimizer, "FINISH": b""}


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a ZIP of these files."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data, method)
    return target.getvalue()


def put_on_shelf(out: Path, data: bytes) -> None:
    """Replace the only archive of a scenario's bridge; its date stays what it was: that of the task's end.

    Args:
        out: The folder that the scenario got.
        data: The new archive.
    """
    [path] = (out.parent / "bridge" / "archives").glob("*.zip")
    draft = path.with_suffix(".new")
    draft.write_bytes(data)
    draft.replace(path)


def sha256(path: Path) -> str:
    """Return the digest of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def fetch(world: World, task: Finished, folder: Path, **settings: Any) -> CrynuxError | None:
    """Download a task's result with a session of its own and return the error that it ended with, if any.

    The bridge has no faults any more afterwards.

    Raises:
        AssertionError: There is something under the final name, and it is not the archive as the bridge has it now.
    """
    async with world.session(**IMPATIENT, **settings) as session:
        error = None
        try:
            await session.attach(task.task_id).download(folder)
        except CrynuxError as caught:
            error = caught
    world.bridge.clear_faults()
    await check_final(world, task, folder, is_there=error is None)
    return error


async def check_final(world: World, task: Finished, folder: Path, *, is_there: bool) -> None:
    """Check that the final name has the archive as the bridge has it now, or that nothing has it."""
    final = folder / f"{task.task_id}.zip"
    assert final.exists() == is_there, f"{final.name} is {'not ' if is_there else ''}there"
    if is_there:
        beside = [name for name in names_in(folder) if name.startswith(f"{final.name}.part")]
        assert not beside, f"left behind: {', '.join(beside)}"
        assert sha256(final) == (await look_at(world, task.task_id)).sha256, "the file is not what the bridge has"


def names_in(folder: Path) -> list[str]:
    """Return the names of the files in a folder, sorted; none where it does not exist."""
    return sorted(os.listdir(folder)) if folder.exists() else []
