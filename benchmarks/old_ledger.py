"""An old ledger: a million jobs that have ended and ten thousand that live, and no table is read as a whole.

``python -m benchmarks.old_ledger`` fills a database on a server of its own, lets a session open it, claim, poll, list
and trim, and reads from the server's log the plan of every statement that was really issued, with the rows and pages
that it touched (auto_explain with ANALYZE and BUFFERS).
"""

import argparse
import asyncio
import json
import re
import time
from collections.abc import Awaitable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import attrs

from benchmarks.postgres_server import PostgresServer, new_server
from benchmarks.reporting import finish, show_table
from crynux_async.clock import utc_now
from crynux_async.emulator import Emulator
from crynux_async.ledgers.base import JobFilter
from crynux_async.ledgers.columns import to_json
from crynux_async.ledgers.postgres.ledger import PostgresLedger
from crynux_async.session import Session
from crynux_async.settings import Settings
from crynux_async.states import JobState
from crynux_async.training.config import FineTuneConfig

ENDED, LIVE, EVENTS = 1_000_000, 10_000, 2
SCHEMA = "crynux_async"
TRIMMED = 2000
FOLLOWED = 30.0  # seconds in which the session claims and polls
LARGE = 1000  # rows above which a table read as a whole is a fault
EXPLAINED = (
    "session_preload_libraries=auto_explain",
    "auto_explain.log_min_duration=0",
    "auto_explain.log_analyze=on",
    "auto_explain.log_buffers=on",
    "auto_explain.log_timing=off",
    "auto_explain.log_format=json",
)
_SERVER = ("shared_buffers=256MB", "max_wal_size=4GB", "work_mem=16MB")
_ENTRY = re.compile(r"duration: ([\d.]+) ms  plan:\n((?:\t.*\n)+)")
_CONFIG = FineTuneConfig(
    model_name="crynux-ai/stable-diffusion-v1-5",
    dataset_url="https://example.com/my-pictures.zip",
    max_train_steps=200,
    seed=1,
    timeout=1800,
)

# Without its triggers, which look up each row's job: what is filled in is consistent.
_FILL = """
SET session_replication_role = replica;
INSERT INTO {s}.leases (owner, until, mark) SELECT 'host ' || n, 0, 0 FROM generate_series(1, 5) n;
INSERT INTO {s}.jobs (job_id, backend, key_id, digest, label, task_id, state, planned_at, is_seed_drawn, asked_digest,
    "group", tags, tenant, idempotency_key, budget, is_stopped, is_sent_by_any, tries, submitted_at, ended_at, error,
    reason, host, last_event, lease_id)
SELECT 'job' || n, '{backend}', '{key_id}', 'd', 'sweep' || n % 1000 || '/' || n, n::text,
    CASE WHEN n > {ended} THEN 'running' ELSE 'downloaded' END, {now} - ({all} - n) * 1000000::bigint, 0, '',
    'group' || n % 1000, '{{}}', 'tenant' || n % 1000, 'key' || n, 'budget' || n % 1000, 0, 0, 1, {now} - {all} + n,
    CASE WHEN n > {ended} THEN NULL ELSE {now} - ({all} - n) * 1000000::bigint END, '', '', '', {events},
    CASE WHEN n > {ended} THEN 1 + n % 5 END
FROM generate_series(1, {all}) n;
INSERT INTO {s}.configs (job_id, config) SELECT job_id, '{config}' FROM {s}.jobs;
INSERT INTO {s}.tags (job_id, name, value) SELECT job_id, 'sweep', "group" FROM {s}.jobs;
INSERT INTO {s}.attempts (job_id, number, backend, key_id, began_at, try_number, payload, outcome, task_id, answer,
    last_begun)
SELECT job_id, 1, backend, key_id, planned_at, 1, '', 'accepted', task_id, '', id FROM {s}.jobs;
INSERT INTO {s}.tasks (job_id, try_number, member, backend, task_id, made_at, "end", reason)
SELECT job_id, 1, 0, backend, task_id, planned_at, '', '' FROM {s}.jobs;
INSERT INTO {s}.steps (job_id, try_number, member, kind, arguments, planned_at, outcome)
SELECT job_id, 1, 0, 'create', '{{}}', planned_at, '' FROM {s}.jobs;
INSERT INTO {s}.events (job_id, number, at, kind, data)
SELECT job_id, e, planned_at, 'Happened', '{{}}' FROM {s}.jobs, generate_series(1, {events}) e;
VACUUM ANALYZE
"""


def fill(
    server: PostgresServer, schema: str, *, ended: int, live: int, backend: str, key_id: str, newest: float
) -> None:
    """Fill the empty tables of a ledger with jobs that have ended and jobs that live, one planned each second.

    Args:
        server: Where it is.
        schema: Its namespace.
        ended: How many have ended.
        live: How many have not; leases that are over hold them.
        backend: Whose jobs they are.
        key_id: Whose key made them.
        newest: When the last one was planned, in seconds since 1970.
    """
    values = {"ended": ended, "all": ended + live, "events": EVENTS, "backend": backend, "key_id": key_id}
    values |= {"now": round(newest * 1e6), "config": to_json(_CONFIG.to_dict())}
    server.run(*_FILL.format(s=schema, **values).split(";"))


@attrs.define
class Asked:
    """What the server did for one statement, over all its calls."""

    calls: int = 0
    slowest: float = 0.0
    pages: int = 0
    rows: int = 0
    scans: set[str] = attrs.Factory(set)
    walked: set[str] = attrs.Factory(set)

    def add(self, milliseconds: float, plan: dict[str, Any]) -> None:
        """Count a call, and what it took at most."""
        self.calls += 1
        self.slowest = max(self.slowest, milliseconds)
        self.pages = max(self.pages, plan.get("Shared Hit Blocks", 0) + plan.get("Shared Read Blocks", 0))
        for node in _nodes(plan):
            touched = round((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])
            self.rows = max(self.rows, touched)
            if node["Node Type"] == "Seq Scan":
                self.scans.add(f"all of {node['Relation Name']}")
                if touched > LARGE:
                    self.walked.add(f"{node['Relation Name']} ({touched:,} rows)")
            elif "Index Name" in node:
                self.scans.add(node["Index Name"])


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


def plans_in(log: str) -> dict[str, Asked]:
    """Return what was done for each statement on the ledger's tables, from a server's log."""
    found: dict[str, Asked] = {}
    for duration, text in _ENTRY.findall(log):
        entry = json.loads(text)
        query = re.sub(r"\s+", " ", entry["Query Text"]).replace(f'"{SCHEMA}".', "").replace(f"{SCHEMA}.", "")
        if "pg_catalog" not in query:
            found.setdefault(query, Asked()).add(float(duration), entry["Plan"])
    return found


async def work(server: PostgresServer, settings: Settings, jobs: int, seconds: dict[str, float]) -> int:
    """Do to a ledger of so many jobs what sessions do, note how long it took, and return how many were claimed."""

    async def timed(name: str, doing: Awaitable[Any]) -> Any:
        began = time.perf_counter()
        result = await doing
        seconds[name] = time.perf_counter() - began
        return result

    session = Session(settings, ledger=server.url())
    await timed("open", session.open())
    await asyncio.sleep(FOLLOWED)
    claimed = len(session.jobs())
    ledger = session.ledger
    await timed("list the newest 50", ledger.jobs(limit=50, newest_first=True))
    await timed("list a group of 1,010", ledger.jobs(JobFilter(group="group7")))
    await timed("list what runs", ledger.jobs(JobFilter(states=[JobState.RUNNING])))
    await timed("find by name", session.find("job500000"))
    await timed("find by task", ledger.jobs(JobFilter(task_id="500000")))
    await timed("read events", ledger.events("job500000"))
    oldest = utc_now() - timedelta(seconds=jobs - TRIMMED)  # one ended each second
    await timed(f"trim the events of {TRIMMED:,} jobs", ledger.trim_events(before=oldest, keep=1000))
    await timed("close", session.close())
    return claimed


async def _make(server: PostgresServer) -> None:
    ledger = PostgresLedger(server.url())
    await ledger.open()
    await ledger.close()


async def measure(server: PostgresServer, ended: int, live: int) -> tuple[dict[str, float], int, dict[str, Asked]]:
    """Fill a ledger, work on it, and return the seconds, the jobs claimed, and what was done for each statement."""
    seconds: dict[str, float] = {}
    async with Emulator(unet="tiny", durable=False) as bridge:
        settings = Settings(**bridge.settings())
        await _make(server)
        began = time.perf_counter()
        await asyncio.to_thread(
            partial(fill, server, SCHEMA, ended=ended, live=live),
            backend=settings.base_url,
            key_id=settings.key_id,
            newest=time.time(),
        )
        seconds["fill"] = time.perf_counter() - began
        log = server.folder / "log"
        begin = log.stat().st_size
        claimed = await work(server, settings, ended + live, seconds)
    with log.open(encoding="utf-8", errors="replace") as file:
        file.seek(begin)
        return seconds, claimed, plans_in(file.read())


def run(ended: int, live: int) -> None:
    """Fill, work, and print the plans; ends with an error where a large table was read as a whole."""
    server = new_server(*_SERVER, *EXPLAINED)
    try:
        seconds, claimed, asked = asyncio.run(measure(server, ended, live))
    finally:
        server.kill()
    show_table(f"{ended:,} ended, {live:,} live: seconds", ("what", "s"), [*seconds.items()])
    rows = [
        (query[:90], each.calls, each.slowest, each.rows, each.pages, ", ".join(sorted(each.scans))[:70])
        for query, each in sorted(asked.items(), key=lambda pair: -pair[1].pages)
    ]
    show_table("Statements", ("statement", "calls", "slowest ms", "most rows", "most pages", "by"), rows)
    walked = {query: sorted(each.walked) for query, each in asked.items() if each.walked}
    finish(
        "old_ledger",
        {
            "ended": ended,
            "live": live,
            "claimed": claimed,
            "statements": len(asked),
            "read_as_a_whole": walked,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
        },
    )
    assert asked, "the server has no auto_explain (PostgreSQL's contrib)"
    assert not walked, f"large tables were read as a whole: {walked}"


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.old_ledger", description=__doc__)
    parser.add_argument("--ended", type=int, default=ENDED, help="how many jobs have ended")
    parser.add_argument("--live", type=int, default=LIVE, help="how many jobs live")
    options = parser.parse_args()
    run(options.ended, options.live)


if __name__ == "__main__":
    main()
