"""A thousand jobs at once through one session: at the relay and over a bridge, in the same run.

``python -m benchmarks.relay [--jobs N] [--seconds S]``. Each service is emulated in a process of its own, and each
client runs in another one, so that memory and lag are the client's alone; all jobs run while both are measured. How
many requests a job takes from its create to its archive is counted on virtual time, and signing is timed.
"""

import argparse
import asyncio
import gc
import json
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.reporting import finish, show_table
from crynux_async.backends.relay.backend import RelayBackend
from crynux_async.backends.relay.ids import TaskNames
from crynux_async.backends.relay.wire import CreateRequest, create_task, look_at_task
from crynux_async.emulator import Emulator
from crynux_async.emulator.relay import CNX, RelayEmulator
from crynux_async.secret import Secret
from crynux_async.session import Session
from crynux_async.settings import Settings
from crynux_async.signing import Wallet
from crynux_async.testing import virtual_time_run
from crynux_async.training.config import FineTuneConfig

SECRET = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"  # the public example key
FEE = 15 * CNX
WARM_UP_JOBS = 50
LIFE_JOBS = 50
SAMPLE = 0.01
RATE = 600_000


def main() -> None:
    """Measure, and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000, help="jobs at once (default 1,000)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long they are watched (default 30)")
    parser.add_argument("--serve", choices=("bridge", "relay"), help=argparse.SUPPRESS)
    parser.add_argument("--client", choices=("bridge", "relay"), help=argparse.SUPPRESS)
    parser.add_argument("--at", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(_serve(options.serve, options.jobs))
    elif options.client:
        figures = asyncio.run(_client(options.client, json.loads(options.at), options.jobs, options.seconds))
        print(json.dumps(figures))
    else:
        _report(options.jobs, options.seconds)


def _report(jobs: int, seconds: float) -> None:
    services = {name: asyncio.run(_measured(name, jobs, seconds)) for name in ("bridge", "relay")}
    names = ("bytes_per_job", "lag_p50_ms", "lag_p99_ms", "cpu_per_submit_us", "looks_per_job_and_minute")
    show_table(
        f"{jobs:,} jobs at once through one session",
        ("figure", *services),
        [(name, *(service[name] for service in services.values())) for name in names],
    )
    life: dict[str, float] = virtual_time_run(_life)
    show_table("Requests of a job at the relay, from create to archive", ("call", "a job"), list(life.items()))
    signing = _signing()
    show_table("Signing", ("what", "us"), list(signing.items()))
    finish("relay", {"jobs": jobs, "services": services, "requests_per_job": life, "signing_us": signing})


async def _measured(name: str, jobs: int, seconds: float) -> dict[str, float]:
    """Run a service and a client of it, each in a process, and return what the client has measured."""
    server = await _started("--serve", name, "--jobs", str(jobs))
    try:
        assert server.stdout is not None
        at = (await server.stdout.readline()).decode()
        arguments = ("--client", name, "--at", at, "--jobs", str(jobs), "--seconds", str(seconds))
        client = await _started(*arguments)
        out, _ = await client.communicate()
        figures: dict[str, float] = json.loads(out)
        return figures
    finally:
        server.kill()
        await server.wait()


async def _started(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.relay", *arguments, stdout=asyncio.subprocess.PIPE
    )


async def _serve(name: str, jobs: int) -> None:
    """Serve until killed; the first line tells where, and with what it is used."""
    if name == "bridge":
        async with Emulator(rate_limit=RATE, durable=False, unet="tiny") as bridge:
            print(json.dumps({"url": bridge.url, "key": bridge.new_key(rate_limit=RATE)}), flush=True)
            await asyncio.Event().wait()
    async with RelayEmulator(nodes=jobs + WARM_UP_JOBS, durable=False, unet="tiny", sampling="never") as relay:
        relay.fund(relay.know_wallet(SECRET), 10 * jobs * FEE + 1000 * CNX)
        print(json.dumps({"url": relay.url, "key": ""}), flush=True)
        await asyncio.Event().wait()


@asynccontextmanager
async def _session(name: str, at: dict[str, str]) -> AsyncIterator[Session]:
    if name == "bridge":
        session = Session(base_url=at["url"], api_key=at["key"], rate_limit=RATE, prime_key=False, trust_env=False)
    else:
        session = Session(backend="relay", wallet=Wallet(Secret(SECRET)), network=at["url"], trust_env=False)
    async with session:
        yield session


async def _client(name: str, at: dict[str, str], jobs: int, seconds: float) -> dict[str, float]:
    async with _session(name, at) as session:
        await _submit(session, WARM_UP_JOBS, 1)
        before = _resident()
        late: list[float] = []
        watching = asyncio.create_task(_watch(late))
        cpu = time.process_time()
        await _submit(session, jobs, WARM_UP_JOBS + 1)
        cpu = time.process_time() - cpu
        looks = session.statistics().polls
        await asyncio.sleep(seconds)
        looks = session.statistics().polls - looks
        watching.cancel()
        late.sort()
        return {
            "bytes_per_job": (_resident() - before) / jobs,
            "lag_p50_ms": 1000 * late[len(late) // 2],
            "lag_p99_ms": 1000 * late[int(0.99 * len(late))],
            "cpu_per_submit_us": 1e6 * cpu / jobs,
            "looks_per_job_and_minute": looks / (jobs + WARM_UP_JOBS) / seconds * 60,
        }


async def _submit(session: Session, count: int, first_seed: int) -> None:
    jobs = await session.submit_many([_config(seed) for seed in range(first_seed, first_seed + count)])
    await asyncio.gather(*(job.submitted() for job in jobs))


async def _watch(late: list[float]) -> None:
    """Note how late each of many short sleeps ends."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + SAMPLE
        await asyncio.sleep(SAMPLE)
        late.append(loop.time() - due)


def _config(seed: int, steps: int = 20_000) -> FineTuneConfig:
    return FineTuneConfig(
        model_name="a/stable-diffusion-v1-5",
        dataset_url="https://data.example/pictures.zip",
        max_train_steps=steps,
        rank=1,
        target_modules=["to_k"],
        timeout=36_000 if steps > 1000 else 1800,
        seed=seed,
    )


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


async def _life() -> dict[str, float]:
    """Return how many requests of each kind a job of ten minutes takes from its create to its archive."""
    async with RelayEmulator(nodes=LIFE_JOBS, durable=False, unet="tiny", sampling="never") as relay:
        relay.fund(relay.know_wallet(SECRET), 10 * LIFE_JOBS * FEE)
        backend = RelayBackend(Settings(base_url=relay.url, trust_env=False), Wallet(Secret(SECRET)))
        with tempfile.TemporaryDirectory() as folder:
            async with Session(Settings(trust_env=False), backend=backend) as session:
                jobs = await session.submit_many([_config(seed, steps=600) for seed in range(1, LIFE_JOBS + 1)])
                await asyncio.gather(*(job.download(folder) for job in jobs))
        await backend.close()
        calls = Counter(_call(record.method, record.path) for record in relay.requests)
    return {name: count / LIFE_JOBS for name, count in sorted(calls.items())}


def _call(method: str, path: str) -> str:
    name = path.rsplit("/", 1)[1]
    if name in ("now", "validate", "checkpoint"):
        return {"checkpoint": "archive", "now": "time"}.get(name, name)
    return "create" if method == "POST" else "look"


def _signing() -> dict[str, float]:
    wallet, ids = Wallet(Secret(SECRET)), TaskNames(Wallet(Secret(SECRET))).ids("job", 1, 0)
    request = CreateRequest.of(ids, _config(1), fee=FEE)
    names = TaskNames(wallet)
    return {
        "a create": _timed(lambda: create_task(request, wallet, 1_700_000_000)),
        "a look": _timed(lambda: look_at_task(ids.commitment, wallet, 1_700_000_000)),
        "a proof": _timed(lambda: wallet.prove(bytes(32))),
        "names of a task": _timed(lambda: names.ids("job", 1, 0)),
    }


def _timed(work: Callable[[], Any], times: int = 500) -> float:
    """Return the microseconds of CPU that a call takes, the best of five turns."""
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(times):
            work()
        best = min(best, time.process_time() - began)
    return 1e6 * best / times


if __name__ == "__main__":
    main()
