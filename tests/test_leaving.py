"""What leaves the library as JSON values: jobs and rows, without what is nobody's business."""

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from crynux_async import (
    ArchiveReady,
    ConfigError,
    ConflictError,
    DownloadFailed,
    FineTuneConfig,
    RejectedError,
    Session,
    UsageError,
)
from crynux_async.archive.metadata import Description, _own
from crynux_async.cli import check
from crynux_async.cli.job_facts import Detail, facts_of, names_of, write_csv
from crynux_async.cli.jobs import job_filter
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.secret import mask_address, mask_query
from crynux_async.states import JobState
from crynux_async.supervision.filing import conflict
from crynux_async.sweeps import Sweep
from crynux_async.sweeps.notes import check_same
from crynux_async.training import advice
from tests.fake_backend import FakeBackend, make_config
from tests.second_backend import FEE, Studio, StudioBackend

LINK = "https://user:pass@store.example/cats.zip?X-Amz-Signature=0123456789abcdef"


async def test_job_and_row_leave_as_json_with_masked_links(tmp_path: Path) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with Session(backend=backend, ledger=ledger, api_key="k" * 44, rate_limit=6000) as session:
        config = make_config(dataset_url=LINK)
        job = await session.submit(
            config, label="cats/1", group="cats", tags={"rank": "8"}, idempotency_key="k", force=True
        )
        await job.download(tmp_path)
        row = await ledger.get(job.job_id)
        assert row is not None
        for facts in (job.to_dict(), row.to_dict()):
            text = json.dumps(facts)
            assert "0123456789abcdef" not in text
            assert "pass" not in text
            assert (facts["state"], facts["tags"], facts["group"]) == ("downloaded", {"rank": "8"}, "cats")
            assert facts["path"] == str(tmp_path / "1.zip")
            assert facts["digest"] == config.digest()


async def test_public_form_tells_no_place_and_no_credential(tmp_path: Path) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with Session(backend=backend, ledger=ledger, api_key="k" * 44, rate_limit=6000) as session:
        job = await session.submit(make_config())
        await job.download(tmp_path)
        row = await ledger.get(job.job_id)
        assert row is not None
        for facts in (job.to_dict(public=True), row.to_dict(public=True)):
            assert not {"backend", "path", "folder", "file_name", "host", "key_id", "budget"} & facts.keys()
            assert str(tmp_path) not in json.dumps(facts)
            assert backend.key_id not in json.dumps(facts)


async def test_public_form_tells_the_kind_of_an_error_and_not_its_words() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    backend.answers.append(
        RejectedError("http://10.0.0.7:5028 refuses it", field="rank", url="http://10.0.0.7:5028/v1")
    )
    async with Session(backend=backend, ledger=ledger, api_key="k" * 44, rate_limit=6000) as session:
        with pytest.raises(RejectedError):
            await session.submit(make_config())
        (job,) = session.jobs()
        rows = await ledger.jobs()
        public = [job.to_dict(public=True), rows[0].to_dict(public=True)]
        public += await facts_of(ledger, rows, Detail(is_public=True))
        for facts in public:
            assert facts["error_kind"] == "RejectedError"
            assert "10.0.0.7" not in json.dumps(facts)
        for facts in (job.to_dict(), rows[0].to_dict(), *await facts_of(ledger, rows, Detail())):
            assert (facts["error_kind"], facts["error"]) == ("RejectedError", "http://10.0.0.7:5028 refuses it")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://a.example/b.zip", "https://a.example/b.zip"),
        ("https://a.example/b.zip?", "https://a.example/b.zip?"),
        ("https://a.example/b.zip?sig=1&x=2", "https://a.example/b.zip?***"),
    ],
)
def test_query_of_an_address_is_masked(address: str, shown: str) -> None:
    assert mask_query(address) == shown


CODE = "0123456789abcdef"
ELSEWHERE = "ftp://user:pass@store.example/cats.zip?X-Amz-Signature=0123456789abcdef"


def shown_forms() -> dict[str, object]:
    """Return every way in which something of a config with a presigned link is shown, by where that is."""
    config = make_config(dataset_url=LINK)
    other = config.evolve(dataset_url=LINK.replace("cats", "dogs"))
    named = FineTuneConfig(model_name="x", dataset_name=LINK, max_train_steps=100)
    clash = conflict("k", other, config, asked_digest="")
    with pytest.raises(ConfigError) as refused:
        make_config(dataset_url=ELSEWHERE)
    with pytest.raises(ConflictError) as base_changed:
        check_same("cats", {"base": other.to_dict()}, {"base": config.to_dict()})
    sweep = Sweep("s", base=make_config(), points=[{"dataset_url": LINK}])
    (point,) = sweep.plan().good
    assert clash is not None
    return {
        "repr": repr(config),
        "repr of a name": repr(named),
        "refusal": refused.value,
        "advice": [advice.check(one) for one in (config, named)],
        "key": (clash, clash.differences),
        "sweep's base": (base_changed.value, base_changed.value.differences),
        "label": point.label,
        "check": check.as_facts(check.find(config, None)),
        "exported file": _own({}, Description(config=config.to_dict())),
    }


PLACES = (
    "repr",
    "repr of a name",
    "refusal",
    "advice",
    "key",
    "sweep's base",
    "label",
    "check",
    "exported file",
)


@pytest.mark.parametrize("place", PLACES)
def test_presigned_link_of_a_config_is_shown_without_its_code(place: str) -> None:
    said = str(shown_forms()[place])
    assert "store.example" in said or place == "advice"
    assert CODE not in said
    assert "user:pass" not in said


def test_links_that_differ_in_what_is_not_shown_are_told_apart_in_words() -> None:
    before, now = make_config(dataset_url=LINK), make_config(dataset_url=f"{LINK}0")
    clash = conflict("k", before, now, asked_digest="")
    assert "differs in what is not shown" in str(clash)


def test_text_that_only_mentions_an_address_is_left_as_it_is() -> None:
    assert mask_address("a cat? see //b@c") == "a cat? see //b@c"
    assert mask_address(None) is None


@pytest.mark.parametrize("is_public", [True, False])
async def test_facts_of_jobs_tell_costs_times_and_health_and_are_a_table_too(tmp_path: Path, is_public: bool) -> None:
    studio, ledger = Studio(), MemoryLedger()
    async with Session(backend=StudioBackend(studio), ledger=ledger, poll_delay=0.01, min_poll_interval=1.0) as session:
        await session.run(make_config(seed=1), tmp_path)
        session.submit_nowait(make_config(seed=2))
        await session.wait_all()
        await session.history()  # everything is stored
        rows = await ledger.jobs()
        facts = await facts_of(ledger, rows, Detail(is_public=is_public, reads_archives=True))
    good, bare = facts
    spent = 2 * FEE
    assert good["cost"] == {"held_wei": "0", "spent_wei": str(spent), "refunded_wei": "0", "is_complete": True}
    assert (good["archive_is_there"], bare["archive_is_there"]) == (True, False)
    assert good["health"].keys() == {"ok", "verdict", "problems"}
    assert bare["health"] is None
    assert all(good[name] for name in ("planned_at", "submitted_at", "ended_at", "digest"))
    assert ("path" in good) is not is_public
    assert (str(tmp_path) in json.dumps(facts)) is not is_public
    table = io.StringIO()
    write_csv(await names_of(Detail(is_public=is_public, reads_archives=True)), facts, table)
    lines = list(csv.DictReader(io.StringIO(table.getvalue())))
    assert [json.loads(line["cost"]) for line in lines] == [each["cost"] for each in facts]
    assert [line["job_id"] for line in lines] == [row.job_id for row in rows]


def test_jobs_are_picked_as_they_are_written_on_a_command_line() -> None:
    where = job_filter(["failed"], "grid/*", ["sweep=cats", "note=a=b"])
    assert (where.states, where.label, where.label_prefix) == ({JobState.FAILED}, None, "grid/")
    assert where.tags == {"sweep": "cats", "note": "a=b"}
    assert job_filter([], "grid/1", []).label == "grid/1"
    with pytest.raises(UsageError, match="name=value"):
        job_filter([], None, ["cats"])


def test_public_form_of_events_tells_no_place() -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    told = {"job_id": "j", "task_id": "7", "at": at, "number": 5}
    ready = ArchiveReady(**told, path=Path("/home/me/7.zip"), total_bytes=9)
    failed = DownloadFailed(**told, message="no room in /home/me")
    common = {"job_id": "j", "task_id": "7", "at": "2026-01-02T00:00:00+00:00", "number": 5}
    assert ready.to_dict(public=True) == {"kind": "ArchiveReady", **common, "total_bytes": 9}
    assert failed.to_dict(public=True) == {"kind": "DownloadFailed", **common}
    assert ready.to_dict()["path"] == "/home/me/7.zip"
