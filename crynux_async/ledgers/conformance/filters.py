"""Checks of how jobs are found and counted."""

from crynux_async.ledgers.base import MOST_TAGS, JobFilter
from crynux_async.ledgers.conformance.support import (
    AWKWARD,
    BACKEND,
    OTHER_BACKEND,
    LedgerCheck,
    LedgerFactory,
    at,
    desk,
    job,
    names,
    opened,
    require_equal,
    task,
)
from crynux_async.states import JobState

_ROWS = [
    job("a1", label="grid/1", group="grid", tags={"sweep": "cats", "rank": "4"}, planned_at=at(0)),
    job("a2", label="grid/2", group="grid", tags={"sweep": "cats"}, state=JobState.RUNNING, planned_at=at(1)),
    job("b1", backend=OTHER_BACKEND, state=JobState.RUNNING, tenant="somebody", budget="spring", planned_at=at(2)),
    job(
        "b2",
        state=JobState.FAILED,
        error="it broke",
        tags={"rank": "4"},
        tenant="somebody",
        idempotency_key="key",
        planned_at=at(3),
    ),
]


async def jobs_are_found_by_every_attribute(make: LedgerFactory) -> None:
    """Each attribute of a filter narrows the list, alone and together with others."""
    selections: list[tuple[JobFilter, str]] = [
        (JobFilter(), "a1 a2 b1 b2"),
        (JobFilter(job_ids=["b1", "nobody", "a1", "b1"]), "a1 b1"),
        (JobFilter(job_ids=[]), ""),
        (JobFilter(job_id_prefix="b"), "b1 b2"),
        (JobFilter(states={JobState.RUNNING, JobState.PLANNED}), "a1 a2 b1"),
        (JobFilter(states=[]), ""),
        (JobFilter(backend=OTHER_BACKEND), "b1"),
        (JobFilter(tenant="somebody"), "b1 b2"),
        (JobFilter(tenant=""), "a1 a2"),
        (JobFilter(idempotency_key="key"), "b2"),
        (JobFilter(label="grid/1"), "a1"),
        (JobFilter(label=""), "b1 b2"),
        (JobFilter(label_prefix="grid/"), "a1 a2"),
        (JobFilter(label_prefix=""), "a1 a2 b1 b2"),
        (JobFilter(group="grid"), "a1 a2"),
        (JobFilter(tags={"sweep": "cats"}), "a1 a2"),
        (JobFilter(tags={"sweep": "cats", "rank": "4"}), "a1"),
        (JobFilter(tags={"rank": "5"}), ""),
        (JobFilter(budget="spring"), "b1"),
        (JobFilter(has_error=True), "b2"),
        (JobFilter(has_error=False), "a1 a2 b1"),
        (JobFilter(since=at(2)), "b1 b2"),
        (JobFilter(since=at(2.000001)), "b2"),
        (JobFilter(after="a2"), "b1 b2"),
        (JobFilter(before="a2"), "a1"),
        (JobFilter(after="a1", before="b2"), "a2 b1"),
        (JobFilter(after="nobody"), ""),
        (JobFilter(before="nobody"), ""),
        (JobFilter(states=[JobState.RUNNING], backend=BACKEND, label_prefix="g", tags={"sweep": "cats"}), "a2"),
        (JobFilter(job_ids=["a1", "b2"], tags={"rank": "4"}, tenant="somebody"), "b2"),
    ]
    async with opened(make) as ledger:
        await ledger.add(_ROWS)
        for where, wanted in selections:
            found = await ledger.jobs(where)
            require_equal(names(found), wanted.split(), f"jobs({where})")
            counts = sum((await ledger.count(where)).values())
            require_equal(counts, len(found), f"how many jobs are counted for {where}")


async def jobs_are_limited_and_turned_round(make: LedgerFactory) -> None:
    """The newest come first where that is asked for, and a limit counts from there."""
    async with opened(make) as ledger:
        await ledger.add(_ROWS)
        require_equal(names(await ledger.jobs(limit=2)), ["a1", "a2"], "the first two jobs")
        require_equal(await ledger.jobs(limit=0), [], "no jobs")
        require_equal(names(await ledger.jobs(newest_first=True)), ["b2", "b1", "a2", "a1"], "the newest jobs")
        page = await ledger.jobs(JobFilter(before="b2"), limit=2, newest_first=True)
        require_equal(names(page), ["b1", "a2"], "the second page of the newest jobs")
        few = await ledger.jobs(JobFilter(job_ids=["a2", "b2", "a1"]), limit=2, newest_first=True)
        require_equal(names(few), ["b2", "a2"], "the newest of certain jobs")


async def prefixes_are_taken_literally(make: LedgerFactory) -> None:
    """No character of a prefix is a pattern, and upper and lower case differ."""
    labels = [
        "50%",
        "50 of 99",
        "5_",
        "5\U0010ffff",
        "5\U0010ffff!",
        AWKWARD,
        AWKWARD + "2",
        "Ä",
        "ä",
        "\ud7ff1",
        "\ue000",
    ]
    async with opened(make) as ledger:
        await ledger.add([job(f"job {number}", label=label) for number, label in enumerate(labels)])
        for prefix in ("50", "50%", "5_", "5", "5\U0010ffff", "\U0010ffff", "\ud7ff", AWKWARD, "Ä", "ä", "a", "%"):
            found = [row.label for row in await ledger.jobs(JobFilter(label_prefix=prefix))]
            require_equal(found, [label for label in labels if label.startswith(prefix)], f"labels with {prefix!r}")


async def jobs_are_found_by_every_task_they_had(make: LedgerFactory) -> None:
    """A job is found by its newest task and by earlier ones, of its own backend or of any."""
    async with desk(make, "a", "b") as me:
        await me.change("a", columns={"task_id": "9", "tries": 2}, tasks=[task("a", "7"), task("a", "8", 1, 1)])
        await me.change("b", columns={"task_id": "10"})
        await me.ledger.add([job("c", backend=OTHER_BACKEND, task_id="7")])
        selections: list[tuple[JobFilter, str]] = [
            (JobFilter(task_id="7"), "a c"),
            (JobFilter(task_id="7", backend=BACKEND), "a"),
            (JobFilter(task_id="8"), "a"),
            (JobFilter(task_id="9"), "a"),
            (JobFilter(task_id="10"), "b"),
            (JobFilter(task_id="1"), ""),
            (JobFilter(task_id="9", states=[JobState.RUNNING]), ""),
        ]
        for where, wanted in selections:
            require_equal(names(await me.ledger.jobs(where)), wanted.split(), f"jobs({where})")


async def many_jobs_are_found_by_their_names(make: LedgerFactory) -> None:
    """However many names are given, their jobs come once each and in order."""
    some = [f"job {number:04}" for number in range(1200)]
    async with opened(make) as ledger:
        await ledger.add([job("another"), *(job(name) for name in some)])
        where = JobFilter(job_ids=[*some[::-1], *some[:10]])
        require_equal(names(await ledger.jobs(where)), some, "jobs by name")
        require_equal(names(await ledger.jobs(where, limit=3, newest_first=True)), some[:-4:-1], "the newest of them")
        require_equal(await ledger.count(where), {JobState.PLANNED: 1200}, "how many they are")


async def jobs_are_found_by_many_tags(make: LedgerFactory) -> None:
    """As many tags as a filter takes are asked for together."""
    tags = {f"tag {number}": str(number) for number in range(MOST_TAGS)}
    last = f"tag {MOST_TAGS - 1}"
    async with opened(make) as ledger:
        await ledger.add([job("all", tags=tags), job("fewer", tags={**tags, last: "another"})])
        require_equal(names(await ledger.jobs(JobFilter(tags=tags))), ["all"], "jobs with all the tags")


async def jobs_are_counted_by_state(make: LedgerFactory) -> None:
    """Only states that jobs are in are there."""
    async with opened(make) as ledger:
        await ledger.add(_ROWS)
        everything = {JobState.PLANNED: 1, JobState.RUNNING: 2, JobState.FAILED: 1}
        require_equal(await ledger.count(), everything, "all jobs by state")
        require_equal(
            await ledger.count(JobFilter(group="grid")), {JobState.PLANNED: 1, JobState.RUNNING: 1}, "a group"
        )


async def tags_change_as_a_whole(make: LedgerFactory) -> None:
    """New tags replace all that were there."""
    async with desk(make) as me:
        await me.ledger.add([job("a", tags={"sweep": "cats", "rank": "4"})], fence=me.fence)
        await me.change("a", columns={"tags": {"sweep": "dogs"}})
        for tags, wanted in (({"sweep": "cats"}, []), ({"rank": "4"}, []), ({"sweep": "dogs"}, ["a"])):
            require_equal(names(await me.ledger.jobs(JobFilter(tags=tags))), wanted, f"jobs with {tags}")
        row = await me.ledger.get("a")
        require_equal(row and row.tags, {"sweep": "dogs"}, "the tags of a job")


FILTER_CHECKS: tuple[LedgerCheck, ...] = (
    jobs_are_found_by_every_attribute,
    jobs_are_limited_and_turned_round,
    prefixes_are_taken_literally,
    jobs_are_found_by_every_task_they_had,
    many_jobs_are_found_by_their_names,
    jobs_are_found_by_many_tags,
    jobs_are_counted_by_state,
    tags_change_as_a_whole,
)
