"""What a backend is shown of a task, whatever was forgotten meanwhile."""

from datetime import UTC, datetime

from crynux_async.backends.base import Action
from crynux_async.ledgers.base import AttemptRow, JobRow, StepRow, TaskRow
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.states import JobState
from crynux_async.supervision.record import Record
from crynux_async.supervision.tasks import TaskViews
from tests.fake_backend import make_config
from tests.second_backend import Studio, StudioBackend

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
CONFIG = make_config()


async def stored_job() -> tuple[MemoryLedger, Record]:
    """Return a ledger with a running job of two steps, the first of which was done, and its record."""
    ledger = MemoryLedger()
    fence = await ledger.enter("owner", seconds=60.0)
    row = JobRow(
        job_id="j1",
        backend="studio",
        key_id="",
        config=CONFIG,
        task_id="drawing-1",
        state=JobState.RUNNING,
        planned_at=NOON,
        submitted_at=NOON,
    )
    made = TaskRow(job_id="j1", try_number=1, backend="studio", task_id="drawing-1", made_at=NOON)
    await ledger.add([row], fence=fence, tasks=[made])
    attempt = AttemptRow(job_id="j1", number=1, backend="studio", key_id="", payload="the order", began_at=NOON)
    await ledger.begin(fence, attempt)
    for kind in ("confirm", "judge"):
        await ledger.plan_step(fence, StepRow(job_id="j1", try_number=1, kind=kind, planned_at=NOON))
    record = Record(
        job_id="j1",
        config=CONFIG,
        task_id="drawing-1",
        state=JobState.RUNNING,
        planned_at=NOON,
        submitted_at=NOON,
        is_saved=True,
    )
    return ledger, record


async def test_step_that_is_entered_after_the_task_was_forgotten_shows_the_payload_and_every_step() -> None:
    ledger, record = await stored_job()
    views = TaskViews(StudioBackend(Studio()), ledger)
    await views.recall(record)
    views.forget(record)  # as when the job was lost to another process while the step was being stored
    task = await views.enter(record, Action(kind="judge", outcome="done"))
    assert task.payload == "the order"
    assert [(action.kind, action.outcome) for action in task.actions] == [("confirm", ""), ("judge", "done")]
    assert views.known(record) == task


async def test_step_that_is_entered_takes_the_place_of_what_was_known_of_it() -> None:
    ledger, record = await stored_job()
    views = TaskViews(StudioBackend(Studio()), ledger)
    before = await views.recall(record)
    task = await views.enter(record, Action(kind="confirm", outcome="done"))
    assert len(task.actions) == len(before.actions) == 2
    assert {action.kind: action.outcome for action in task.actions} == {"confirm": "done", "judge": ""}


async def test_what_was_seen_of_anothers_task_is_not_what_is_known_when_its_job_is_taken_over() -> None:
    ledger, record = await stored_job()
    record.is_ours = False
    views = TaskViews(StudioBackend(Studio()), ledger)
    assert len((await views.recall(record)).actions) == 2
    (fence,) = [holder.fence for holder in await ledger.holders()]
    await ledger.plan_step(fence, StepRow(job_id="j1", try_number=1, kind="collect", planned_at=NOON))
    record.is_ours = True
    assert [action.kind for action in (await views.recall(record)).actions] == ["confirm", "judge", "collect"]
