"""Checks of how creates behave."""

from crynux_async.backends.conformance.stage import BackendCheck, Stage, created, error_of, order
from crynux_async.errors import BackendError, SubmissionUnknownError, UnreachableError


async def payload_is_text_that_is_the_same_for_the_same_order(stage: Stage) -> None:
    """An attempt that is taken over must send what was stored, and what is stored must not depend on the moment."""
    first, second = stage.backend.intend(order()), stage.backend.intend(order())
    assert isinstance(first, str), f"a payload is text, not {type(first).__name__}"
    assert first == second, "the payload of one order was made twice, and differs"
    first.encode()  # what cannot be encoded cannot be stored


async def create_makes_one_task_with_an_id_of_text(stage: Stage) -> None:
    """A task id is opaque text that is never empty."""
    task = await created(stage)
    assert isinstance(task.task_id, str), f"a task id is text, not {type(task.task_id).__name__}"
    assert task.task_id, "a task id must not be empty"
    assert stage.tasks_made() == 1, f"one create made {stage.tasks_made()} tasks"


async def two_orders_make_two_tasks(stage: Stage) -> None:
    """Every job, and every try of a job, is a task of its own."""
    ids = [
        (await created(stage, order(job_id="j1" * 17))).task_id,
        (await created(stage, order(job_id="j2" * 17))).task_id,
        (await created(stage, order(job_id="j2" * 17, try_number=2))).task_id,
    ]
    assert len(set(ids)) == 3, f"three orders were given the ids {ids}"


async def normal_task_id_of_a_task_id_is_itself(stage: Stage) -> None:
    """What a user copies from a screen finds the row that the create stored."""
    task = await created(stage)
    normal = stage.backend.normal_task_id(task.task_id)
    assert normal == task.task_id, f"task {task.task_id!r} is written {normal!r}"
    spaced = stage.backend.normal_task_id(f" {task.task_id} ")
    assert spaced == task.task_id, f"spaces around task {task.task_id!r} are kept: {spaced!r}"


async def create_whose_answer_is_lost_has_an_unknown_outcome(stage: Stage) -> None:
    """Only this error keeps a job from being paid twice."""
    await stage.lose_next_answer()
    await error_of(SubmissionUnknownError, stage.backend.create(stage.backend.intend(order())))
    assert stage.tasks_made() == 1, f"the create was sent {stage.tasks_made()} times"


async def repeatable_create_is_billed_once(stage: Stage) -> None:
    """Where a backend says that a payload may be created again, the service must make one task of it."""
    if not stage.backend.creates_are_repeatable:
        return
    payload = stage.backend.intend(order())
    await stage.lose_next_answer()
    await error_of(SubmissionUnknownError, stage.backend.create(payload))
    again, more = await stage.backend.create(payload), await stage.backend.create(payload)
    assert again == more or again.task_id == more.task_id, f"one payload made {again.task_id} and {more.task_id}"
    assert stage.tasks_made() == 1, f"one payload was billed {stage.tasks_made()} times"


async def refused_create_makes_nothing_and_says_so(stage: Stage) -> None:
    """A refusal is a typed error of the service, never an unknown outcome."""
    await stage.refuse_next_create()
    error = await error_of(BackendError, stage.backend.create(stage.backend.intend(order())))
    assert not isinstance(error, UnreachableError), "a refusal was taken for a service that cannot be reached"
    assert stage.tasks_made() == 0, "a refused create made a task"


async def create_at_a_service_that_is_away_was_not_sent(stage: Stage) -> None:
    """What was certainly not sent may be sent again."""
    payload = stage.backend.intend(order())
    await stage.disappear()
    await error_of(UnreachableError, stage.backend.create(payload))


async def credential_is_nowhere_in_what_a_ledger_stores(stage: Stage) -> None:
    """A ledger holds a fingerprint and never a credential."""
    backend = stage.backend
    assert backend.name, "a backend needs a name that identifies it in a ledger"
    assert isinstance(backend.key_id, str), "the fingerprint of the credential is text"
    payload = backend.intend(order())
    assert "Bearer" not in payload, "the payload holds a header with a credential"


CREATE_CHECKS: tuple[BackendCheck, ...] = (
    payload_is_text_that_is_the_same_for_the_same_order,
    create_makes_one_task_with_an_id_of_text,
    two_orders_make_two_tasks,
    normal_task_id_of_a_task_id_is_itself,
    create_whose_answer_is_lost_has_an_unknown_outcome,
    repeatable_create_is_billed_once,
    refused_create_makes_nothing_and_says_so,
    create_at_a_service_that_is_away_was_not_sent,
    credential_is_nowhere_in_what_a_ledger_stores,
)
