"""Every fault of the emulator, as a client sees it."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from crynux_async.emulator import KINDS, Emulator

CONFIG = {
    "model_name": "m",
    "dataset_url": "https://host.example/data.zip",
    "batch_size": 1,
    "max_train_steps": 10,
    "num_train_steps": 10,
    "target_modules": ["to_k"],
    "seed": 1,
}
CREATE = "/v1/images/models"
STATUS = "/v1/images/models/1/status"
RESULT = "/v1/images/models/1/result"
DONE = 100


class Raw:
    """What came over a connection, byte by byte, and how it ended."""

    def __init__(self, data: bytes, end: str) -> None:
        self.data = data
        self.head, _, self.body = data.partition(b"\r\n\r\n")
        self.end = end

    def header(self, name: str) -> str | None:
        for line in self.head.decode().split("\r\n")[1:]:
            key, _, value = line.partition(": ")
            if key.lower() == name.lower():
                return value
        return None


class Wire:
    """A client on bare sockets with one key."""

    def __init__(self, emulator: Emulator, key: str) -> None:
        self._port = int(emulator.url.rpartition(":")[2])
        self._key = key

    async def ask(self, method: str, path: str, document: Any = None, *, patience: float = 60, **headers: str) -> Raw:
        """Send a request and read until the server ends the connection or ``patience`` seconds have passed."""
        body = b"" if document is None else json.dumps(document).encode()
        lines = {
            "Host": "localhost",
            "Authorization": f"Bearer {self._key}",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        raw = await self._read(reader, patience)
        writer.close()
        return raw

    async def create(self, **options: Any) -> Raw:
        return await self.ask("POST", CREATE, CONFIG, **options)

    async def status(self, **options: Any) -> Raw:
        return await self.ask("GET", STATUS, **options)

    async def result(self, **options: Any) -> Raw:
        return await self.ask("GET", RESULT, **options)

    @staticmethod
    async def _read(reader: asyncio.StreamReader, patience: float) -> Raw:
        data = b""
        try:
            async with asyncio.timeout(patience):
                while part := await reader.read(1 << 20):
                    data += part
        except TimeoutError:
            return Raw(data, "silence")
        except ConnectionResetError:
            return Raw(data, "reset")
        return Raw(data, "closed")


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(unet="tiny", rate_limit=6000) as emulator:
        yield emulator


@pytest.fixture
def wire(emulator: Emulator) -> Wire:
    return Wire(emulator, emulator.new_key())


@pytest.fixture
async def whole(emulator: Emulator, wire: Wire) -> bytes:
    """The archive of job 1, which is finished."""
    await wire.create()
    await asyncio.sleep(DONE)
    return (await wire.result()).body


async def test_drop_before_closes_and_does_nothing(emulator: Emulator, wire: Wire) -> None:
    emulator.add_fault("drop_before", on="create")
    raw = await wire.create()
    assert (raw.data, raw.end, len(emulator.jobs)) == (b"", "closed", 0)


async def test_drop_after_accept_closes_and_has_made_a_job(emulator: Emulator, wire: Wire) -> None:
    emulator.add_fault("drop_after_accept", on="create")
    raw = await wire.create()
    assert (raw.data, raw.end, [entry.accepted for entry in emulator.journal]) == (b"", "closed", [True])


async def test_reset_resets_and_has_made_a_job(emulator: Emulator, wire: Wire) -> None:
    emulator.add_fault("reset", on="create")
    raw = await wire.create()
    assert (raw.data, raw.end, len(emulator.jobs)) == (b"", "reset", 1)


@pytest.mark.parametrize(("end", "seen"), [("fin", "closed"), ("rst", "reset"), ("stall", "silence")])
async def test_cut_response_ends_after_every_number_of_bytes(
    emulator: Emulator, wire: Wire, end: str, seen: str
) -> None:
    emulator.add_fault("cut_response", on="create", bytes=10_000)
    size = len((await wire.create()).data)
    for count in range(0, size, 37):
        emulator.add_fault("cut_response", on="create", bytes=count, end=end)
        raw = await wire.create()
        assert (len(raw.data), raw.end) == (count, seen)
    assert len(emulator.jobs) == 1 + len(range(0, size, 37))


@pytest.mark.parametrize("count", [0, 1, 5000])
async def test_cut_promises_the_whole_archive_and_sends_a_part(
    emulator: Emulator, wire: Wire, whole: bytes, count: int
) -> None:
    emulator.add_fault("cut", on="result", bytes=count)
    raw = await wire.result()
    assert (raw.body, raw.header("Content-Length"), raw.end) == (whole[:count], str(len(whole)), "closed")


async def test_cut_of_a_range_counts_from_its_start(emulator: Emulator, wire: Wire, whole: bytes) -> None:
    emulator.add_fault("cut", on="result", bytes=10)
    raw = await wire.result(Range="bytes=1000-1999")
    assert (raw.body, raw.header("Content-Length")) == (whole[1000:1010], "1000")


@pytest.mark.parametrize("count", [None, 700])
async def test_no_length_announces_no_size(emulator: Emulator, wire: Wire, whole: bytes, count: int | None) -> None:
    emulator.add_fault("no_length", on="result", bytes=count)
    raw = await wire.result()
    assert (raw.body, raw.header("Content-Length"), raw.end) == (whole[:count], None, "closed")


async def test_stall_without_bytes_says_nothing_at_all(emulator: Emulator, wire: Wire) -> None:
    emulator.add_fault("stall", on="create")
    raw = await wire.create()
    assert (raw.data, raw.end, len(emulator.jobs)) == (b"", "silence", 1)


async def test_stall_sends_its_bytes_and_then_nothing(emulator: Emulator, wire: Wire, whole: bytes) -> None:
    emulator.add_fault("stall", on="result", bytes=300)
    raw = await wire.result()
    assert (raw.body, raw.end) == (whole[:300], "silence")


async def test_trickle_sends_everything_at_its_pace(emulator: Emulator, wire: Wire, whole: bytes) -> None:
    emulator.add_fault("trickle", on="result", bytes_per_second=10_000)
    before = asyncio.get_running_loop().time()
    raw = await wire.result(patience=10_000)
    assert raw.body == whole
    assert asyncio.get_running_loop().time() - before == pytest.approx(len(raw.data) / 10_000, rel=0.01)


async def test_delay_answers_late_and_rightly(emulator: Emulator, wire: Wire) -> None:
    emulator.add_fault("delay", on="create", seconds=30)
    before = asyncio.get_running_loop().time()
    raw = await wire.create()
    assert json.loads(raw.body)["data"]["id"] == 1
    assert asyncio.get_running_loop().time() - before == pytest.approx(30, abs=0.1)


@pytest.mark.parametrize(("kind", "status"), [("html_502", 502), ("html", 502), ("html", 413)])
async def test_html_is_a_proxys_page_and_nothing_is_done(
    emulator: Emulator, wire: Wire, kind: str, status: int
) -> None:
    emulator.add_fault(kind, on="create", status=status)
    raw = await wire.create()
    assert raw.head.startswith(f"HTTP/1.1 {status} ".encode())
    assert (raw.header("Content-Type"), raw.body[:6], len(emulator.jobs)) == ("text/html", b"<html>", 0)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_status_after_the_job_was_made_hides_it(emulator: Emulator, wire: Wire, status: int) -> None:
    emulator.add_fault("status", on="create", status=status, carried_out=True)
    raw = await wire.create()
    assert (raw.head[9:12], raw.body, len(emulator.jobs)) == (str(status).encode(), b"", 1)


async def test_status_with_a_field_is_in_the_envelope(emulator: Emulator, wire: Wire) -> None:
    emulator.add_fault("status", on="create", status=400, field="task_args", message="no")
    raw = await wire.create()
    assert json.loads(raw.body) == {"message": "validation_error", "data": {"field_name": "task_args", "message": "no"}}


async def test_body_is_sent_as_given(emulator: Emulator, wire: Wire) -> None:
    emulator.add_fault(
        "body", on="status", status=200, headers={"Content-Type": "text/plain", "X-A": "b"}, body="hello"
    )
    raw = await wire.status()
    assert (raw.body, raw.header("Content-Type"), raw.header("X-A")) == (b"hello", "text/plain", "b")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirect_points_elsewhere(emulator: Emulator, wire: Wire, status: int) -> None:
    emulator.add_fault("redirect", on="create", status=status, location="http://elsewhere/")
    raw = await wire.create()
    assert (raw.head[9:12], raw.header("Location"), len(emulator.jobs)) == (
        str(status).encode(),
        "http://elsewhere/",
        0,
    )


async def test_rate_wording_refuses_in_other_words(emulator: Emulator, wire: Wire) -> None:
    emulator.add_fault("rate_wording", on="create", text="rate limit exceeded, please wait 0.00 seconds")
    raw = await wire.create()
    data = {"field_name": "rate_limit", "message": "rate limit exceeded, please wait 0.00 seconds"}
    assert json.loads(raw.body)["data"] == data


async def test_broken_json_is_cut_inside_and_complete_outside(emulator: Emulator, wire: Wire) -> None:
    emulator.add_fault("broken_json", on="create")
    raw = await wire.create()
    assert (raw.header("Content-Length"), len(emulator.jobs)) == (str(len(raw.body)), 1)
    with pytest.raises(json.JSONDecodeError):
        json.loads(raw.body)


async def test_big_json_is_right_and_large(emulator: Emulator, wire: Wire) -> None:
    emulator.add_fault("big_json", on="create", megabytes=3)
    raw = await wire.create()
    assert json.loads(raw.body)["data"]["id"] == 1
    assert len(raw.body) > 3 * 1024 * 1024


async def test_gzip_bomb_is_small_on_the_wire_and_large_unpacked(emulator: Emulator, wire: Wire) -> None:
    emulator.add_fault("gzip_bomb", on="status", megabytes=20)
    await wire.create()
    raw = await wire.status()
    assert raw.header("Content-Encoding") == "gzip"
    assert len(raw.body) < 200_000
    assert len(gzip.decompress(raw.body)) > 20 * 1024 * 1024


@pytest.mark.parametrize(
    ("kind", "data"), [("no_id", {"status": "running"}), ("zero_id", {"id": 0, "status": "running"})]
)
async def test_id_is_missing_or_zero(emulator: Emulator, wire: Wire, kind: str, data: dict[str, Any]) -> None:
    await wire.create()
    emulator.add_fault(kind, on="status")
    assert json.loads((await wire.status()).body) == {"message": "success", "data": data}


async def test_word_is_another_status(emulator: Emulator, wire: Wire) -> None:
    await wire.create()
    emulator.add_fault("word", on="status", text="paused")
    assert json.loads((await wire.status()).body)["data"] == {"id": 1, "status": "paused"}


async def test_edit_of_json_leaves_an_archive_alone(emulator: Emulator, wire: Wire, whole: bytes) -> None:
    emulator.add_fault("zero_id", on="result")
    assert (await wire.result()).body == whole


@pytest.mark.parametrize("offset", [0, 262_143, 262_144, 500_000])
async def test_flip_changes_one_bit(emulator: Emulator, wire: Wire, whole: bytes, offset: int) -> None:
    place = min(offset, len(whole) - 1)
    emulator.add_fault("flip", on="result", offset=place)
    body = (await wire.result()).body
    assert [index for index in range(len(whole)) if body[index] != whole[index]] == [place]
    assert body[place] ^ whole[place] == 1


async def test_flip_follows_the_archive_into_a_range(emulator: Emulator, wire: Wire, whole: bytes) -> None:
    emulator.add_fault("flip", on="result", offset=150)
    body = (await wire.result(Range="bytes=100-199")).body
    assert body[50] ^ whole[150] == 1
    assert body[:50] + body[51:] == whole[100:150] + whole[151:200]


async def test_zero_clears_four_kibibytes(emulator: Emulator, wire: Wire, whole: bytes) -> None:
    emulator.add_fault("zero", on="result", offset=10_000)
    assert (await wire.result()).body == whole[:10_000] + bytes(4096) + whole[14_096:]


async def test_garbage_follows_the_archive(emulator: Emulator, wire: Wire, whole: bytes) -> None:
    emulator.add_fault("garbage", on="result", bytes=100)
    raw = await wire.result()
    assert (raw.body[: len(whole)], len(raw.body)) == (whole, len(whole) + 100)
    assert raw.header("Content-Length") == str(len(raw.body))


async def test_repeat_sends_the_beginning_twice(emulator: Emulator, wire: Wire, whole: bytes) -> None:
    emulator.add_fault("repeat", on="result", bytes=1000)
    assert (await wire.result()).body == whole[:1000] + whole


async def test_ignore_range_sends_everything(emulator: Emulator, wire: Wire, whole: bytes) -> None:
    emulator.add_fault("ignore_range", on="result")
    raw = await wire.result(Range="bytes=5-9")
    assert (raw.head[9:12], raw.body, raw.header("Content-Range")) == (b"200", whole, None)


@pytest.mark.parametrize(
    ("parameters", "claim"),
    [
        ({"start": 0}, "bytes 0-9/{}"),
        ({"total": 77}, "bytes 5-9/77"),
        ({"start": 6, "total": 8}, "bytes 6-9/8"),
        ({}, None),
    ],
)
async def test_wrong_range_claims_another_place(
    emulator: Emulator, wire: Wire, whole: bytes, parameters: dict[str, int], claim: str | None
) -> None:
    emulator.add_fault("wrong_range", on="result", **parameters)
    raw = await wire.result(Range="bytes=5-9")
    expected = claim.format(len(whole)) if claim else None
    assert (raw.head[9:12], raw.body, raw.header("Content-Range")) == (b"206", whole[5:10], expected)


async def test_changed_archive_stays_changed_and_has_a_later_date(emulator: Emulator, wire: Wire, whole: bytes) -> None:
    old = (await wire.result()).header("Last-Modified")
    emulator.add_fault("changed", on="result")
    changed = await wire.result(Range="bytes=5-9", If_Range=old or "")
    again = await wire.result()
    assert (changed.head[9:12], changed.body == whole, again.body == changed.body) == (b"200", False, True)
    assert again.header("Last-Modified") == changed.header("Last-Modified") != old


async def test_changed_before_the_end_does_nothing(emulator: Emulator, wire: Wire) -> None:
    await wire.create()
    emulator.add_fault("changed", on="result")
    assert json.loads((await wire.result()).body)["data"]["message"] == "Task not found"
    assert emulator.jobs[1].version == 0


async def test_fault_acts_as_often_as_asked(emulator: Emulator, wire: Wire) -> None:
    await wire.create()
    fault = emulator.add_fault("status", on="status", count=2)
    heads = [(await wire.status()).head[9:12] for _ in range(3)]
    assert (heads, fault.hits) == ([b"500", b"500", b"200"], 2)


async def test_fault_without_a_count_acts_until_it_is_cleared(emulator: Emulator, wire: Wire) -> None:
    await wire.create()
    emulator.add_fault("status", on="status", count=None)
    before = [(await wire.status()).head[9:12] for _ in range(3)]
    emulator.clear_faults()
    assert (before, (await wire.status()).head[9:12]) == ([b"500"] * 3, b"200")


async def test_fault_lets_the_first_requests_pass(emulator: Emulator, wire: Wire) -> None:
    await wire.create()
    emulator.add_fault("status", on="status", after=2)
    assert [(await wire.status()).head[9:12] for _ in range(4)] == [b"200", b"200", b"500", b"200"]


async def test_fault_of_one_task_leaves_others_alone(emulator: Emulator, wire: Wire) -> None:
    await wire.create()
    await wire.create()
    emulator.add_fault("status", on="status", task_id=2)
    first = await wire.ask("GET", "/v1/images/models/1/status")
    second = await wire.ask("GET", "/v1/images/models/2/status")
    assert (first.head[9:12], second.head[9:12]) == (b"200", b"500")


async def test_fault_waits_for_its_kind_of_request(emulator: Emulator, wire: Wire) -> None:
    fault = emulator.add_fault("status", on="result")
    await wire.create()
    await wire.status()
    assert fault.hits == 0


async def test_fault_on_any_request_takes_the_first(emulator: Emulator, wire: Wire) -> None:
    emulator.add_fault("status", on="any")
    assert (await wire.create()).head[9:12] == b"500"


async def test_faults_act_in_the_order_in_which_they_were_added(emulator: Emulator, wire: Wire) -> None:
    emulator.add_fault("status", on="create", status=503)
    emulator.add_fault("status", on="create", status=504)
    assert [(await wire.create()).head[9:12] for _ in range(3)] == [b"503", b"504", b"200"]


async def test_dropped_request_is_recorded_without_status(emulator: Emulator, wire: Wire) -> None:
    emulator.add_fault("drop_after_accept", on="create")
    await wire.create()
    assert [record.status for record in emulator.requests] == [None]


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("on", ["create", "status", "result"])
async def test_server_survives_every_fault_on_every_request(emulator: Emulator, wire: Wire, kind: str, on: str) -> None:
    await wire.create()
    await asyncio.sleep(DONE)
    fault = emulator.add_fault(kind, on=on, megabytes=1, bytes_per_second=10**6)  # type: ignore[arg-type]
    await {"create": wire.create, "status": wire.status, "result": wire.result}[on]()
    assert fault.hits == 1
    assert json.loads((await wire.status()).body)["data"] == {"id": 1, "status": "success"}


async def test_key_is_shown_by_no_record(emulator: Emulator) -> None:
    key = emulator.new_key()
    await Wire(emulator, key).create()
    assert key not in repr((emulator.requests, emulator.journal, dict(emulator.jobs)))


async def test_kept_alive_connection_survives_harmless_faults(emulator: Emulator) -> None:
    opened: list[object] = []

    async def count(*parameters: object) -> None:
        opened.append(parameters)

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(count)
    emulator.add_fault("status", on="status", count=3)
    async with aiohttp.ClientSession(trace_configs=[trace]) as session:
        for _ in range(4):
            async with session.get(emulator.url + STATUS) as response:
                await response.read()
    assert [record.status for record in emulator.requests] == [500, 500, 500, 500]
    assert len(opened) == 1
