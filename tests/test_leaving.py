"""What leaves the library as JSON values: jobs and rows, without what is nobody's business."""

import json
from pathlib import Path

import pytest

from crynux_async import Session, UsageError
from crynux_async.cli.jobs import job_filter
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.secret import mask_query
from crynux_async.states import JobState
from tests.fake_backend import FakeBackend, make_config

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
            assert not {"path", "folder", "file_name", "host", "key_id", "budget"} & facts.keys()
            assert str(tmp_path) not in json.dumps(facts)
            assert backend.key_id not in json.dumps(facts)


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


def test_jobs_are_picked_as_they_are_written_on_a_command_line() -> None:
    where = job_filter(["failed"], "grid/*", ["sweep=cats", "note=a=b"])
    assert (where.states, where.label, where.label_prefix) == ({JobState.FAILED}, None, "grid/")
    assert where.tags == {"sweep": "cats", "note": "a=b"}
    assert job_filter([], "grid/1", []).label == "grid/1"
    with pytest.raises(UsageError, match="name=value"):
        job_filter([], None, ["cats"])
