"""The emulator over HTTP: keys, jobs, results, steering, journal, restart."""

import asyncio
import json
import threading
import zipfile
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from crynux_async.emulator import Emulator
from crynux_async.emulator.nodes import unet
from tests.emulator_client import BOTH_ROUNDS, CONFIG, DAY, FIRST_ROUND, Client


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    # A create on a connection that the server has just closed has no clear outcome, so each has its own.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        yield session


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(unet="tiny", rate_limit=6000) as emulator:
        yield emulator


@pytest.fixture
def client(session: aiohttp.ClientSession, emulator: Emulator) -> Client:
    return Client(session, emulator, emulator.new_key())


async def test_job_goes_through_its_states_in_training_time(client: Client) -> None:
    task_id = await client.new_job()
    assert (await client.status(task_id), await client.error(task_id)) == ("running", ("id", "Task not found"))
    await asyncio.sleep(FIRST_ROUND + 1)
    assert (await client.status(task_id), await client.error(task_id)) == ("running", ("id", "Task result not found"))
    await asyncio.sleep(BOTH_ROUNDS - FIRST_ROUND)
    assert await client.status(task_id) == "success"


async def test_speed_shortens_training_and_not_the_rate_limit(session: aiohttp.ClientSession) -> None:
    async with Emulator(unet="tiny", speed=100.0) as emulator:
        client = Client(session, emulator, emulator.new_key(rate_limit=1))
        task_id = await client.new_job()
        await asyncio.sleep(BOTH_ROUNDS / 100 + 0.01)
        assert await client.status(task_id) == "success"
        _, answer = await client.create()
        assert answer["data"]["message"] == f"rate limit exceeded, please wait {60 - 2.41:.2f} seconds"


async def test_archive_is_what_was_asked_for(client: Client) -> None:
    task_id = await client.new_job(rank=2, mixed_precision="fp16")
    await asyncio.sleep(BOTH_ROUNDS)
    _, content, last_modified = await client.download(task_id)
    with zipfile.ZipFile(BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert {"pytorch_lora_weights.safetensors", "FINISH", "scaler.pt"} < set(archive.namelist())
        assert archive.read("global_step.txt") == b"200"
    assert last_modified == "Thu, 01 Jan 2026 00:04:00 GMT"


async def test_download_in_parts_gives_the_same_bytes(client: Client) -> None:
    task_id = await client.new_job()
    await asyncio.sleep(BOTH_ROUNDS)
    _, whole, date = await client.download(task_id)
    half = len(whole) // 2
    first = await client.download(task_id, Range=f"bytes=0-{half - 1}")
    second = await client.download(task_id, **{"Range": f"bytes={half}-", "If-Range": date})
    assert (first[0], second[0]) == (206, 206)
    assert first[1] + second[1] == whole


async def test_large_archive_is_streamed_whole(client: Client) -> None:
    task_id = await client.new_job(model_name="m/big-8")
    await asyncio.sleep(BOTH_ROUNDS)
    _, content, _ = await client.download(task_id)
    with zipfile.ZipFile(BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert len(content) > 8 * 1024 * 1024


async def test_jobs_at_once_are_all_delivered(client: Client) -> None:
    ids = await asyncio.gather(*(client.new_job(seed=seed) for seed in range(1, 41)))
    await asyncio.sleep(BOTH_ROUNDS)
    archives = await asyncio.gather(*(client.download(task_id) for task_id in ids))
    assert sorted(ids) == list(range(1, 41))
    assert len({content for _, content, _ in archives}) == 40


@pytest.mark.parametrize(
    ("ending", "age", "status", "error"),
    [
        ("fail", 80, "failed", "Task not found"),
        ("stall", DAY, "running", "Task not found"),
        ("nofinish", DAY, "running", "Task result not found"),
    ],
)
async def test_model_name_steers_what_becomes_of_the_job(
    client: Client, ending: str, age: float, status: str, error: str
) -> None:
    task_id = await client.new_job(model_name=f"crynux-ai/stable-diffusion-v1-5/{ending}")
    await asyncio.sleep(age)
    assert (await client.status(task_id), await client.error(task_id)) == (status, ("id", error))


@pytest.mark.parametrize("changes", [{"target_modules": None}, {"dataset_url": None}, {"init_lora_weights": "loftq"}])
async def test_job_that_nodes_cannot_train_fails_late(client: Client, changes: dict[str, Any]) -> None:
    task_id = await client.new_job(**changes)
    await asyncio.sleep(4 * 1800 - 1)
    assert await client.status(task_id) == "running"
    await asyncio.sleep(2)
    assert await client.status(task_id) == "failed"


async def test_expression_that_never_ends_holds_nobody_up(
    session: aiohttp.ClientSession, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, others_served = threading.Event(), threading.Event()

    def stuck(_: str, __: tuple[str, ...]) -> None:
        begun.set()
        assert others_served.wait(30), "nobody was served meanwhile"

    monkeypatch.setattr(unet, "matching", stuck)
    created = asyncio.create_task(client.new_job(target_modules=r"(\w+\.?)+\.to_kk"))
    await asyncio.to_thread(begun.wait, 30)
    other = await client.new_job()
    assert (await client.status(other), created.done()) == ("running", False)
    others_served.set()
    assert await client.status(await created) == "running"


async def test_emulator_opened_again_with_an_expression_that_never_ends_works(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with Emulator(unet="tiny", folder=tmp_path) as emulator:
        key = emulator.new_key()
        task_id = await Client(session, emulator, key).new_job(target_modules=r"(\w+\.?)+\.to_kk|again", timeout=600)
    async with Emulator(unet="tiny", folder=tmp_path) as emulator:
        client = Client(session, emulator, key)
        await asyncio.sleep(2399)
        assert await client.status(task_id) == "running"
        await asyncio.sleep(1)
        assert await client.status(task_id) == "failed"


async def test_archive_beyond_the_room_for_archives_is_not_even_begun(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with Emulator(unet="tiny", folder=tmp_path, archive_limit_bytes=50 * 2**20) as emulator:
        client = Client(session, emulator, emulator.new_key())
        task_id = await client.new_job(rank=100_000, timeout=600)
        await asyncio.sleep(2401)
        assert await client.status(task_id) == "failed"
        assert await client.error(task_id) == ("id", "Task not found")
        assert not list((tmp_path / "archives").iterdir())


async def test_first_job_of_a_fresh_key_is_never_delivered(session: aiohttp.ClientSession, emulator: Emulator) -> None:
    client = Client(session, emulator, emulator.new_key(primed=False))
    first, second = await client.new_job(), await client.new_job()
    await asyncio.sleep(BOTH_ROUNDS)
    assert await client.error(first) == ("api_key", "invalid api key")
    assert (await client.download(second))[0] == 200


@pytest.mark.parametrize("changes", [{"timeout": 0}, {"mixed_precision": "fp8"}])
async def test_refused_create_primes_a_fresh_key(
    session: aiohttp.ClientSession, emulator: Emulator, changes: dict[str, Any]
) -> None:
    client = Client(session, emulator, emulator.new_key(primed=False))
    status, _ = await client.create(**changes)
    task_id = await client.new_job()
    await asyncio.sleep(BOTH_ROUNDS)
    assert (status, task_id, (await client.download(task_id))[0]) == (400, 2, 200)


async def test_create_that_does_not_bind_does_not_prime(session: aiohttp.ClientSession, emulator: Emulator) -> None:
    client = Client(session, emulator, emulator.new_key(primed=False))
    await client.create(rank="four")
    status, answer = await client.ask("GET", "/v1/images/models/1/result")
    assert (status, answer) == (500, {"message": "record not found"})


async def test_id_of_a_refused_create_stays_running(client: Client) -> None:
    await client.create(timeout=0)
    await asyncio.sleep(6 * DAY)
    assert await client.status(1) == "running"


async def test_result_of_another_keys_job_is_refused(
    session: aiohttp.ClientSession, emulator: Emulator, client: Client
) -> None:
    task_id = await client.new_job()
    await asyncio.sleep(BOTH_ROUNDS)
    other = Client(session, emulator, emulator.new_key())
    assert await other.error(task_id) == ("api_key", "invalid api key")


async def test_used_up_key_can_neither_create_nor_download(session: aiohttp.ClientSession, emulator: Emulator) -> None:
    client = Client(session, emulator, emulator.new_key(use_limit=5, used_count=5))
    _, answer = await client.create()
    assert answer["data"] == {"field_name": "Authorization", "message": "API key quota exceeded"}
    assert await client.error(1) == ("Authorization", "API key quota exceeded")


async def test_expired_key_is_refused(session: aiohttp.ClientSession, emulator: Emulator) -> None:
    client = Client(session, emulator, emulator.new_key(expired=True))
    assert await client.error(1) == ("Authorization", "API key has expired")


@pytest.mark.parametrize(("age", "is_there"), [(7 * DAY - 10, True), (7 * DAY + 10, False)])
async def test_finished_job_is_deleted_after_its_retention(client: Client, age: float, is_there: bool) -> None:
    task_id = await client.new_job()
    await asyncio.sleep(BOTH_ROUNDS + age)
    status, answer = await client.ask("GET", f"/v1/images/models/{task_id}/status")
    if is_there:
        assert (status, (await client.download(task_id))[0]) == (200, 200)
    else:
        assert (status, answer) == (500, {"message": "record not found"})
        assert await client.error(task_id) == ("id", "Task not found")


async def test_retention_of_zero_keeps_jobs_for_ever(session: aiohttp.ClientSession) -> None:
    async with Emulator(unet="tiny", retention_days=0) as emulator:
        client = Client(session, emulator, emulator.new_key())
        task_id = await client.new_job()
        await asyncio.sleep(30 * DAY)
        assert await client.status(task_id) == "success"


async def test_restart_forgets_the_buckets_and_keeps_the_jobs(
    session: aiohttp.ClientSession, emulator: Emulator
) -> None:
    client = Client(session, emulator, emulator.new_key(rate_limit=1))
    task_id = await client.new_job()
    refused, _ = await client.create()
    emulator.restart()
    assert (refused, await client.new_job(), await client.status(task_id)) == (400, 2, "running")


async def test_changed_rate_limit_keeps_the_burst_until_a_restart(
    session: aiohttp.ClientSession, emulator: Emulator
) -> None:
    key = emulator.new_key(rate_limit=1)
    client = Client(session, emulator, key)
    await client.new_job()
    emulator.set_rate_limit(key, 20)
    await asyncio.sleep(3600)
    assert [(await client.create())[0] for _ in range(2)] == [200, 400]
    emulator.restart()
    assert [(await client.create())[0] for _ in range(3)] == [200, 200, 200]


async def test_emulator_opened_again_on_its_folder_knows_keys_jobs_and_journal(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with Emulator(unet="tiny", folder=tmp_path) as emulator:
        key, fresh = emulator.new_key(rate_limit=60), emulator.new_key(primed=False)
        client, other = Client(session, emulator, key), Client(session, emulator, fresh)
        await client.new_job()
        await other.new_job()
        await client.create(timeout=0)
        emulator.set_rate_limit(key, 2)
        before = emulator.journal
        await asyncio.sleep(FIRST_ROUND)
    async with Emulator(unet="tiny", folder=tmp_path) as emulator:
        client, other = Client(session, emulator, key), Client(session, emulator, fresh)
        await asyncio.sleep(BOTH_ROUNDS - FIRST_ROUND)
        assert emulator.journal == before
        assert (await client.download(1))[0] == 200
        assert await other.error(2) == ("api_key", "invalid api key")
        assert [(await client.create())[0] for _ in range(3)] == [200, 200, 400]
        assert [entry.client_id for entry in emulator.journal] == [1, 2, 1, 1, 1]


async def test_journal_tells_every_id_in_order(emulator: Emulator, client: Client) -> None:
    await client.new_job(seed=5)
    await client.create(timeout=0)
    await asyncio.sleep(10)
    await client.create(rank="x")
    await client.create(lr_scheduler="warp", seed=6)
    entries = emulator.journal
    assert [(entry.task_id, entry.outcome, entry.accepted, entry.seed) for entry in entries] == [
        (1, "job", True, 5),
        (2, "timeout", False, 42),
        (3, "schema", False, 6),
    ]
    assert [entry.created_at.isoformat() for entry in entries][::2] == [
        "2026-01-01T00:00:00+00:00",
        "2026-01-01T00:00:10+00:00",
    ]


async def test_journal_line_is_on_disk_when_the_answer_arrives(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    async with Emulator(unet="tiny", folder=tmp_path) as emulator:
        key = emulator.new_key()
        task_id = await Client(session, emulator, key).new_job()
        lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
        stored = "".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("*.jsonl"))
    assert [line["task_id"] for line in lines] == [task_id]
    assert key not in stored


async def test_journal_answer_never_shows_a_key(session: aiohttp.ClientSession, emulator: Emulator) -> None:
    key = emulator.new_key()
    await Client(session, emulator, key).new_job()
    async with session.get(f"{emulator.url}/_emulator/journal") as response:
        text = await response.text()
    (entry,) = json.loads(text)
    assert key not in text
    assert (entry["key"], entry["task_id"], entry["accepted"]) == (key[:8], 1, True)


async def test_random_seed_is_drawn_and_only_the_journal_tells_it(emulator: Emulator, client: Client) -> None:
    await client.new_job(seed=0)
    assert 0 <= emulator.journal[0].seed < 100_000_000


async def test_jobs_tell_the_arguments_after_defaults(emulator: Emulator, client: Client) -> None:
    task_id = await client.new_job(lr_warmup_steps=0)
    args = emulator.jobs[task_id].args
    assert (args.lr_warmup_steps, args.rank, args.target_modules) == (500, 4, ("to_k", "to_q", "to_v", "to_out.0"))


async def test_requests_are_recorded_with_what_tells_a_clients_behaviour(emulator: Emulator, client: Client) -> None:
    task_id = await client.new_job()
    await asyncio.sleep(BOTH_ROUNDS)
    await client.download(task_id, Range="bytes=0-9")
    post, get = emulator.requests
    assert (post.method, post.path, post.status, post.has_key) == ("POST", "/v1/images/models", 200, True)
    assert (get.status, get.headers["Range"]) == (206, "bytes=0-9")
    assert get.at - post.at == pytest.approx(BOTH_ROUNDS)


async def test_emulator_closes_in_bounded_time_while_an_answer_hangs(session: aiohttp.ClientSession) -> None:
    async with Emulator(unet="tiny") as emulator:
        emulator.add_fault("stall", on="status")
        hanging = asyncio.create_task(Client(session, emulator, emulator.new_key()).status(1))
        await asyncio.sleep(1)
        before = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - before < 5
    with pytest.raises(aiohttp.ClientError):
        await hanging


async def test_emulator_that_is_not_running_says_so() -> None:
    with pytest.raises(RuntimeError, match="not running"):
        Emulator().new_key()


async def test_emulator_without_a_folder_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: aiohttp.ClientSession
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with Emulator(unet="tiny") as emulator:
        await Client(session, emulator, emulator.new_key()).new_job()
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        *({"speed": 0}, {"speed": float("nan")}, {"speed": "1"}, {"images": 0}, {"round_overhead": -1}),
        *({"retention_days": -1}, {"rate_limit": "abc"}, {"unet": "big"}, {"durable": 1}, {"port": 65_536}),
        *({"request_log": -1}, {"archive_limit_bytes": 0.5}),
    ],
)
def test_option_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}: must be"):
        Emulator(**options)


@pytest.mark.parametrize(
    ("method", "path", "status", "location"),
    [
        ("POST", "/v1/images/models/", 307, "/v1/images/models"),
        ("POST", "/v1/images/models/?a=1", 307, "/v1/images/models?a=1"),
        ("GET", "/v1/images/models/5/status/", 301, "/v1/images/models/5/status"),
        ("OPTIONS", "/v1/images/models", 204, None),
        ("HEAD", "/v1/images/models/1/status", 404, None),
        ("GET", "/v1/images/models/", 404, None),
        ("GET", "/v1/images/models//status", 404, None),
        ("POST", "/v1/images/models/1/result", 404, None),
    ],
)
async def test_what_is_none_of_the_calls_is_answered_as_gin_does(
    session: aiohttp.ClientSession, emulator: Emulator, method: str, path: str, status: int, location: str | None
) -> None:
    async with session.request(method, emulator.url + path, allow_redirects=False) as response:
        assert (response.status, response.headers.get("Location")) == (status, location)


async def post(session: aiohttp.ClientSession, emulator: Emulator, **options: Any) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {emulator.new_key()}", **options.pop("headers", {})}
    async with session.post(f"{emulator.url}/v1/images/models", headers=headers, **options) as response:
        return response.status, json.loads(await response.read())


def json_body(size: int) -> dict[str, Any]:
    """Return the options of a post whose body has ``size`` bytes."""
    text = json.dumps({**CONFIG, "validation_prompt": ""})
    padded = text.replace('"validation_prompt": ""', f'"validation_prompt": "{"x" * (size - len(text))}"')
    return {"data": BytesIO(padded.encode()), "headers": {"Content-Type": "application/json"}}


async def test_body_over_two_mebibytes_is_too_large(session: aiohttp.ClientSession, emulator: Emulator) -> None:
    _, answer = await post(session, emulator, **json_body(2 * 1024 * 1024 + 1))
    assert answer["data"] == {"field_name": "", "message": "http: request body too large"}


async def test_body_of_exactly_two_mebibytes_is_accepted(session: aiohttp.ClientSession, emulator: Emulator) -> None:
    status, _ = await post(session, emulator, **json_body(2 * 1024 * 1024))
    assert status == 200


async def test_multipart_create_makes_a_job(session: aiohttp.ClientSession, emulator: Emulator) -> None:
    form = aiohttp.FormData({"model_name": "m", "rank": "4", "Timeout": "60"}, default_to_multipart=True)
    form.add_field("checkpoint", b"PK", filename="checkpoint.zip", content_type="application/zip")
    status, _ = await post(session, emulator, data=form)
    assert (status, emulator.jobs[1].args.rank, emulator.jobs[1].args.timeout) == (200, 4, 60)


async def test_two_checkpoints_are_refused_without_an_id(session: aiohttp.ClientSession, emulator: Emulator) -> None:
    form = aiohttp.FormData({"model_name": "m"}, default_to_multipart=True)
    for _ in range(2):
        form.add_field("checkpoint", b"PK", filename="checkpoint.zip", content_type="application/zip")
    _, answer = await post(session, emulator, data=form)
    assert answer["data"] == {"field_name": "checkpoint", "message": "More than one checkpoint file uploaded"}
    assert not emulator.jobs


async def test_number_that_json_cannot_express_is_a_server_error(
    session: aiohttp.ClientSession, emulator: Emulator
) -> None:
    form = aiohttp.FormData({"model_name": "m", "noise_offset": "nan"}, default_to_multipart=True)
    assert await post(session, emulator, data=form) == (500, {"message": "json: unsupported value: NaN"})


@pytest.mark.real_time
async def test_emulator_works_on_a_loop_with_real_time(session: aiohttp.ClientSession) -> None:
    async with Emulator(unet="tiny", speed=1e6) as emulator:
        client = Client(session, emulator, emulator.new_key())
        task_id = await client.new_job()
        while await client.status(task_id) == "running":
            await asyncio.sleep(0)
        _, content, _ = await client.download(task_id)
    assert zipfile.is_zipfile(BytesIO(content))
