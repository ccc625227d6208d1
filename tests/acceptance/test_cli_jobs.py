"""The commands about the ledger, as a user types them."""

import asyncio
import json
import os
import pty
import signal
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from crynux_async.clock import utc_now
from crynux_async.emulator import Emulator
from crynux_async.ledgers.conformance.support import job
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.states import JobState
from tests.acceptance.test_cli import bridge, config
from tests.command_line import environment, run_cli, start
from tests.fake_backend import make_config

__all__ = ["bridge", "config"]

pytestmark = pytest.mark.real_time


async def test_jobs_lists_what_was_run_without_asking_the_bridge(
    bridge: Emulator, config: Path, tmp_path: Path
) -> None:
    code, _, err = await run_cli("run", "job.toml", "--set", "rank=2", env=environment(bridge), cwd=tmp_path)
    assert code == 0, err
    code, out, _ = await run_cli("jobs", "--json", env=environment(), cwd=tmp_path)
    (row,) = json.loads(out)
    assert (code, row["task_id"], row["state"], row["label"]) == (0, "1", "downloaded", "job")
    code, out, _ = await run_cli("jobs", "--state", "failed", env=environment(), cwd=tmp_path)
    assert (code, "No jobs" in out) == (0, True)


async def test_jobs_of_an_unknown_state_says_which_there_are(bridge: Emulator, config: Path, tmp_path: Path) -> None:
    await run_cli("run", "job.toml", "--set", "rank=2", env=environment(bridge), cwd=tmp_path)
    code, _, err = await run_cli("jobs", "--state", "lost", env=environment(), cwd=tmp_path)
    assert code == 2
    assert "downloaded" in err


async def test_jobs_without_a_ledger_says_where_it_would_be(tmp_path: Path) -> None:
    code, _, err = await run_cli("jobs", env=environment(), cwd=tmp_path)
    assert code == 2
    assert "jobs.db" in err


@pytest.mark.parametrize("command", ["jobs", "resume", "reconcile"])
async def test_ledger_that_is_none_is_refused_with_its_own_code_and_kept(command: str, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam")
    code, _, err = await run_cli(command, "--ledger", "letter.txt", env=environment(), cwd=tmp_path)
    assert code == 7
    assert "is not a ledger" in " ".join(err.split())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("letter.txt", "Dear Sir or Madam")]


async def test_jobs_whose_reader_has_seen_enough_ends_quietly(bridge: Emulator, config: Path, tmp_path: Path) -> None:
    env = environment(bridge)
    await run_cli("run", "job.toml", "--set", "rank=2", env=env, cwd=tmp_path)
    process = await start("jobs", "--json", env=env, cwd=tmp_path)
    assert process.stdout is not None
    reader: Any = process.stdout
    reader._transport.close()
    _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")


async def test_reconcile_without_anything_uncertain_says_so(tmp_path: Path, bridge: Emulator) -> None:
    ledger = SqliteLedger(tmp_path / "jobs.db")
    await ledger.open()
    await ledger.close()
    code, out, _ = await run_cli("reconcile", env=environment(bridge), cwd=tmp_path)
    assert (code, out) == (0, "Every create has a known outcome.\n")


async def test_resume_of_a_planned_job_says_how_it_is_sent_and_sends_it_when_told(
    bridge: Emulator, tmp_path: Path
) -> None:
    env = environment(bridge)
    ledger = SqliteLedger(tmp_path / "jobs.db")
    await ledger.open()
    await ledger.add([job("j1", backend=bridge.url, task_id=None, config=make_config(), state=JobState.PLANNED)])
    await ledger.close()
    code, out, err = await run_cli("resume", env=env, cwd=tmp_path)
    assert (code, "resume --send" in out, len(bridge.journal)) == (6, True, 0), err
    code, _, err = await run_cli("resume", "--send", env=env, cwd=tmp_path)
    assert (code, len(bridge.journal)) == (0, 1), err


async def test_resume_finishes_what_a_killed_process_began(bridge: Emulator, config: Path, tmp_path: Path) -> None:
    env = environment(bridge)
    bridge.add_fault("stall", on="status", count=None)  # however slowly it is killed, it does not learn of the end
    process = await start("run", "job.toml", "--set", "rank=2", "--out", "models", env=env, cwd=tmp_path)
    assert process.stdout is not None
    said = b""
    while b"running" not in said:
        said += await process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    await process.communicate()
    bridge.clear_faults()
    still_running = bridge.add_fault("word", on="status", text="running", count=2)
    code, out, err = await run_cli("resume", "--json", env=env, cwd=tmp_path)
    facts = json.loads(out)
    assert code == 0, err
    assert [job["state"] for job in facts["jobs"]] == ["downloaded"]
    assert (tmp_path / "models" / "1.zip").is_file()
    assert (still_running.hits, len(bridge.journal)) == (2, 1)


async def test_resume_of_a_lost_create_lists_it_with_its_bracket_and_reconcile_finds_it(
    bridge: Emulator, config: Path, tmp_path: Path
) -> None:
    env = environment(bridge)
    await run_cli("run", "job.toml", "--set", "rank=2", env=env, cwd=tmp_path)
    bridge.add_fault("drop_after_accept", on="create")
    code, _, err = await run_cli("run", "job.toml", "--set", "rank=2", env=env, cwd=tmp_path)
    assert code == 4
    assert "SubmissionUnknownError" in err
    await run_cli("run", "job.toml", "--set", "rank=2", env=env, cwd=tmp_path)
    code, out, _ = await run_cli("resume", "--json", env=env, cwd=tmp_path)
    (lost,) = json.loads(out)["unconfirmed"]
    assert (code, lost["after"], lost["before"], len(lost["digest"])) == (4, "1", "3", 64)
    code, out, _ = await run_cli("reconcile", "--json", env=env, cwd=tmp_path)
    assert (code, [job["task_id"] for job in json.loads(out)["found"]]) == (0, ["2"])
    code, out, _ = await run_cli("resume", "--out", "found", "--json", env=env, cwd=tmp_path)
    assert (code, [job["state"] for job in json.loads(out)["jobs"]]) == (0, ["downloaded"])
    assert len(bridge.journal) == 3


async def test_resume_to_where_no_model_can_come_is_refused(bridge: Emulator, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    code, _, err = await run_cli("resume", "--out", "file", env=environment(bridge), cwd=tmp_path)
    assert (code, "cannot be a folder" in " ".join(err.split())) == (2, True)


async def test_resume_that_cannot_fetch_what_was_asked_for_does_not_say_that_all_is_well(
    bridge: Emulator, config: Path, tmp_path: Path
) -> None:
    env = environment(bridge)
    await run_cli("run", "job.toml", "--set", "rank=2", env={**env, "CRYNUX_LEDGER": "first.db"}, cwd=tmp_path)
    (tmp_path / "file").write_text("no folder")
    ledger = SqliteLedger(tmp_path / "jobs.db")
    await ledger.open()
    row = job("j1", backend=bridge.url, task_id="1", state=JobState.RUNNING, submitted_at=utc_now())
    await ledger.add([attrs.evolve(row, folder=str(tmp_path / "file"), file_name="{task_id}.zip")])
    await ledger.close()
    code, out, err = await run_cli("resume", "--json", env=env, cwd=tmp_path)
    assert [each["state"] for each in json.loads(out)["jobs"]] == ["succeeded"], err
    assert code == 5


async def test_abandon_and_retry_of_a_lost_create(bridge: Emulator, config: Path, tmp_path: Path) -> None:
    env = environment(bridge)
    bridge.add_fault("drop_after_accept", on="create", count=2)
    for _ in range(2):
        await run_cli("run", "job.toml", "--set", "rank=2", env=env, cwd=tmp_path)
    code, out, _ = await run_cli("jobs", "--state", "unconfirmed", "--json", env=env, cwd=tmp_path)
    first, second = (row["job_id"] for row in json.loads(out))
    code, out, _ = await run_cli("abandon", first, env=env, cwd=tmp_path)
    assert (code, "abandoned" in out) == (0, True)
    code, out, err = await run_cli("retry", second, env=env, cwd=tmp_path)
    assert (code, "task 3" in out) == (0, True), err


async def failed_jobs(bridge: Emulator, env: dict[str, str], tmp_path: Path) -> list[str]:
    """Let three jobs fail, and return their names."""
    ledger = SqliteLedger(tmp_path / "jobs.db")
    await ledger.open()
    for number, label in enumerate(["grid/1", "grid/2", "other"], start=1):
        row = job(f"j{number}", backend=bridge.url, task_id=str(900 + number), state=JobState.FAILED, label=label)
        await ledger.add([attrs.evolve(row, submitted_at=utc_now(), config=make_config(seed=number, timeout=1800))])
    await ledger.close()
    return ["j1", "j2", "j3"]


async def test_retry_by_state_and_label_says_the_price_and_sends_each_once(bridge: Emulator, tmp_path: Path) -> None:
    env = environment(bridge)
    await failed_jobs(bridge, env, tmp_path)
    code, out, err = await run_cli(
        "retry", "--state", "failed", "--label", "grid/*", "--timeout", "3600", env=env, cwd=tmp_path
    )
    assert code == 0, err
    first, *sent = out.splitlines()
    assert first == "2 jobs to send again: at most 30 CNX."
    assert [line.partition(" ")[0] for line in sent] == ["j1", "j2"]
    assert sorted(entry.seed for entry in bridge.journal) == [1, 2]
    _, out, _ = await run_cli("jobs", "--json", env=env, cwd=tmp_path)
    assert [row["config"]["timeout"] for row in json.loads(out)] == [3600, 3600, 1800]
    code, out, _ = await run_cli("retry", "--label", "other", "--at-most", "5", env=env, cwd=tmp_path)
    assert (code, len(bridge.journal)) == (0, 3)
    code, out, _ = await run_cli("retry", "--tag", "sweep=cats", env=env, cwd=tmp_path)
    assert (code, out) == (0, "No such job can be sent again.\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name the jobs"),
        (["j1", "--state", "failed"], "name the jobs"),
        (["--state", "unconfirmed"], "one by one"),
        (["--state", "running"], "cannot be sent again"),
        (["j1", "--timeout", "60"], "may only be raised"),
        (["j9"], "no job is called j9"),
    ],
)
async def test_retry_of_what_cannot_be_sent_again_says_why_and_sends_nothing(
    arguments: list[str], said: str, bridge: Emulator, tmp_path: Path
) -> None:
    env = environment(bridge)
    await failed_jobs(bridge, env, tmp_path)
    code, out, err = await run_cli("retry", *arguments, env=env, cwd=tmp_path)
    assert out == "", "nothing is priced that cannot be sent"
    assert code == 2
    assert said in " ".join(err.split())
    assert not bridge.journal


@pytest.mark.parametrize(("answer", "sent"), [("y", 1), ("n", 0), ("", 0)])
async def test_retry_on_a_terminal_asks_before_it_pays(
    answer: str, sent: int, bridge: Emulator, tmp_path: Path
) -> None:
    env = environment(bridge)
    await failed_jobs(bridge, env, tmp_path)
    terminal, side = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "crynux_async.cli", "retry", "j1",
            stdin=side, stdout=side, stderr=side, env=env, cwd=tmp_path,
        )  # fmt: skip
        os.write(terminal, f"{answer}\n".encode())
        async with asyncio.timeout(60):
            code = await process.wait()
        said = os.read(terminal, 65536).decode()
    finally:
        os.close(terminal)
        os.close(side)
    assert "Send 1 again? [y/N]" in said
    assert (code, len(bridge.journal)) == (0 if sent else 2, sent)
