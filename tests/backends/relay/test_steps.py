"""What a try needs next: the table, state by state."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from crynux_async.backends.base import Phase
from crynux_async.backends.relay.steps import (
    REPEATS,
    End,
    Kind,
    Progress,
    Run,
    Stage,
    Step,
    again_after,
    failure,
    first_look_after,
    look_within,
    next_step,
    phases_of,
    progress,
    spread,
)
from crynux_async.backends.relay.tasks import AbortReason, RelayTask, Status

LATE = "the time was up: no node took it (raise fee), or one was not done (raise timeout, or check the data set)"
FEE = 15
START = datetime(2026, 1, 1, tzinfo=UTC)
STATES = {
    "q": (Status.QUEUED, AbortReason.NONE),
    "s": (Status.STARTED, AbortReason.NONE),
    "e": (Status.ERROR_REPORTED, AbortReason.NONE),
    "r": (Status.SCORE_READY, AbortReason.NONE),
    "v": (Status.VALIDATED, AbortReason.NONE),
    "V": (Status.GROUP_VALIDATED, AbortReason.NONE),
    "i": (Status.INVALIDATED, AbortReason.NONE),
    "+": (Status.SUCCEEDED, AbortReason.NONE),
    "W": (Status.GROUP_SUCCEEDED, AbortReason.NONE),
    "=": (Status.GROUP_REFUNDED, AbortReason.NONE),
    "t": (Status.ABORTED, AbortReason.TIMEOUT),
    "n": (Status.ABORTED, AbortReason.INCORRECT_RESULT),
    "x": (Status.ABORTED, AbortReason.ERROR_REPORTED),
    "c": (Status.ABORTED, AbortReason.CREATOR_CANCELLED),
}
CREATE, VALIDATE, CANCEL = Kind.CREATE, Kind.VALIDATE, Kind.CANCEL


def task(letter: str) -> RelayTask:
    status, reason = STATES[letter]
    return RelayTask(
        commitment="0x", creator="0xC", nonce="0x", seed=bytes(32), args="{}", status=status, abort_reason=reason,
        fee=FEE, timeout=600, created_at=START, started_at=None if letter == "q" else START,
    )  # fmt: skip


def run(word: str, number: int = 0, *steps: Step, selected: bool | None = None) -> Run:
    """Return a run whose members are in the states that the letters name; "." is not created. Three are a group."""
    first = number * 3
    members = {first + place: task(letter) for place, letter in enumerate(word) if letter != "."}
    is_selected = len(word) > 1 if selected is None else selected
    return Run(number=number, members=members, is_selected=is_selected, steps=steps)


def step(word: str, *steps: Step, selected: bool | None = None) -> tuple[Kind, int] | None:
    """Return the next step of a try with one run."""
    found = next_step([run(word, 0, *steps, selected=selected)])
    return None if found is None else (found.kind, found.member)


def where(*words: str) -> Progress:
    """Return where a try is whose runs are in these states."""
    return progress([run(word, number) for number, word in enumerate(words)])


@pytest.mark.parametrize(
    ("word", "expected"),
    [("q", None), ("s", None), ("r", (VALIDATE, 0)), ("e", (VALIDATE, 0)), ("v", None), ("+", None), ("t", (CREATE, 3)),
     ("x", (CREATE, 3)), ("c", None)],
)  # fmt: skip
def test_single_task_gets_what_its_state_asks_for(word: str, expected: tuple[Kind, int] | None) -> None:
    assert step(word) == expected


@pytest.mark.parametrize("state", ["q", "s", "r"])
def test_selected_task_gets_siblings_whatever_it_does_meanwhile(state: str) -> None:
    assert step(f"{state}..") == (CREATE, 1)
    assert step(f"{state}q.") == (CREATE, 2)


@pytest.mark.parametrize("word", ["e..", "eq."])
def test_selected_task_in_error_gets_no_more_siblings_and_no_proof(word: str) -> None:
    assert step(word) in (None, (CANCEL, 1))


def test_selected_task_that_was_aborted_before_its_siblings_is_run_again() -> None:
    assert step("t..") == (CREATE, 3)


def test_sibling_of_a_task_that_was_aborted_is_cancelled_while_it_waits() -> None:
    assert step("tq.") == (CANCEL, 1)
    assert step("ts.") is None


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("qqq", None), ("sss", None), ("rrs", None), ("rrq", None), ("trq", None), ("tqq", None),
        ("rrr", (VALIDATE, 0)), ("rre", (VALIDATE, 0)), ("ree", (VALIDATE, 0)), ("rrt", (VALIDATE, 0)),
        ("rtt", (VALIDATE, 0)), ("eet", (VALIDATE, 0)), ("ett", (VALIDATE, 0)), ("rrc", (VALIDATE, 0)),
        ("eee", None),  # the relay would refuse it for ever, and refunds all three at their deadline
        ("eeq", (CANCEL, 2)), ("ttq", (CANCEL, 2)), ("qte", (CANCEL, 0)),
        ("ees", None), ("ttr", (VALIDATE, 0)),
        ("V==", None), ("Vi=", None), ("VV=", None),
        ("ttt", (CREATE, 3)), ("nnn", (CREATE, 3)), ("inn", (CREATE, 3)), ("t==", (CREATE, 3)),
        ("W==", (CREATE, 3)), ("Wi=", (CREATE, 3)),
    ],
)  # fmt: skip
def test_group_gets_what_its_states_ask_for(word: str, expected: tuple[Kind, int] | None) -> None:
    assert step(word) == expected


def test_stored_step_that_is_not_done_is_returned_as_it_stands() -> None:
    stored = Step(kind=VALIDATE, member=0)
    assert next_step([run("r", 0, stored)]) is stored


def test_stored_step_that_has_become_needless_is_not() -> None:
    assert step("v", Step(kind=VALIDATE, member=0)) is None


def test_step_that_was_done_is_not_done_again() -> None:
    assert step("r", Step(kind=VALIDATE, member=0, is_done=True, outcome="refused: invalid proof")) is None
    assert step("eeq", Step(kind=CANCEL, member=2, is_done=True)) is None


def test_next_run_is_created_again_until_it_is_seen() -> None:
    stored = Step(kind=CREATE, member=3)
    second = Run(number=1, members={}, is_selected=False, steps=(stored,))
    assert next_step([run("t"), second]) is stored


def test_three_failures_are_repeated_and_the_fourth_is_the_last() -> None:
    words = ["t", "x", "nnn", "t"]
    for count in range(1, REPEATS + 1):
        runs = [run(word, number) for number, word in enumerate(words[:count])]
        assert progress(runs).end is None
        following = next_step(runs)
        assert following is not None
        assert (following.kind, following.member) == (CREATE, 3 * count)
    runs = [run(word, number) for number, word in enumerate(words)]
    assert (next_step(runs), progress(runs).end) == (None, End.FAILED)
    assert progress(runs).reasons == (
        LATE,
        "the node could not run the task with these arguments: look at them with 'crynux-async check'",
        "the nodes that checked each other did not agree: retry it",
        LATE,
    )


def test_run_whose_archive_is_given_to_nobody_is_no_failure() -> None:
    found = where("t", "t", "t", "W==", "+")
    assert (found.end, found.winner, found.run) == (End.SUCCEEDED, 12, 4)
    assert (found.spent, found.with_images) == (2 * FEE, (9, 12))
    assert "gives the archives of checked tasks to nobody" in found.reasons[3]


def test_bad_luck_is_not_paid_for_without_end() -> None:
    words = ["W=="] * 3
    assert where(*words).end is None
    assert where(*words, "W==").end is End.FAILED


@pytest.mark.parametrize(
    ("words", "end"),
    [
        (["q"], None), (["v"], None), (["t"], None), (["+"], End.SUCCEEDED), (["c"], End.CANCELLED),
        (["t", "c"], End.CANCELLED), (["W==", "c"], End.CANCELLED), (["t", "+"], End.SUCCEEDED),
        (["ccc"], End.CANCELLED), (["cV="], None), (["cWi"], End.CANCELLED),
    ],
)  # fmt: skip
def test_try_ends_when_nothing_more_comes(words: Sequence[str], end: End | None) -> None:
    assert where(*words).end is end


def test_cancel_of_its_own_is_not_taken_for_the_users() -> None:
    own = Step(kind=CANCEL, member=2, is_done=True)
    runs = [run("xxc", 0, own)]
    assert progress(runs).end is None
    assert step("xxc", own) == (CREATE, 3)


def test_siblings_that_are_too_dear_end_the_try_without_another_draw() -> None:
    refused = Step(kind=CREATE, member=1, is_done=True, outcome="the account has too little")
    assert step("s..", refused) == (CREATE, 2)
    runs = [run("t..", 0, refused)]
    assert (progress(runs).end, next_step(runs)) == (End.FAILED, None)
    assert progress(runs).reasons == (f"{LATE}; the account has too little",)


def test_next_run_that_is_refused_ends_the_try() -> None:
    refused = Step(kind=CREATE, member=3, is_done=True, outcome="the account has too little")
    runs = [run("t"), Run(number=1, members={}, is_selected=False, steps=(refused,))]
    assert (progress(runs).end, next_step(runs)) == (End.FAILED, None)


@pytest.mark.parametrize(
    ("word", "stage"),
    [("q", Stage.QUEUED), ("s", Stage.STARTED), ("r", Stage.SCORED), ("e", Stage.SCORED), ("v", Stage.VALIDATED),
     ("+", Stage.UPLOADED), ("sqq", Stage.QUEUED), ("rss", Stage.STARTED), ("rrr", Stage.SCORED),
     ("tss", Stage.STARTED), ("V==", Stage.VALIDATED), ("W==", Stage.UPLOADED),
     ("t", Stage.QUEUED), ("c", Stage.QUEUED), ("nnn", Stage.QUEUED), ("inn", Stage.QUEUED)],
)  # fmt: skip
def test_stage_is_how_far_the_run_is(word: str, stage: Stage) -> None:
    assert run(word).stage is stage


@pytest.mark.parametrize(
    ("word", "age", "expected"),
    [("q", 0, 12.0), ("s", 0, 10.0), ("s", 300, 6.0), ("s", 550, 2.0), ("s", 700, 2.0), ("r", 0, 2.0), ("v", 0, 2.0),
     ("ssq", 0, 12.0), ("sst", 300, 6.0)],
)  # fmt: skip
def test_looks_come_closer_with_the_deadline(word: str, age: float, expected: float) -> None:
    assert again_after(run(word), START.timestamp() + age) == pytest.approx(expected)


def lived(letter: str, *seconds: float) -> Run:
    """Return a run whose task started, had a score, was validated and uploaded after so many seconds."""
    names = ("started_at", "scored_at", "validated_at", "uploaded_at")
    times = {name: START + timedelta(seconds=at) for name, at in zip(names, seconds, strict=False)}
    return Run(number=0, members={0: attrs.evolve(task(letter), **times)}, is_selected=False)


def training(age: float, took: float | None = None, *, within: float, failed: bool = False) -> Phase:
    return Phase(name="started", late=4.0, age=age, took=took, failed=failed, within=within)


def upload(age: float = 0.0, took: float | None = None, *, within: float) -> Phase:
    return Phase(name="validated", late=0.8, age=age, took=took, within=within)


# The timeout is 600 s: at 120 s a tenth of the 480 that are left is 48, and a fiftieth of 250 is 5.
@pytest.mark.parametrize(
    ("run", "now", "expected"),
    [
        (run("q"), 100.0, (training(0.0, within=60.0), upload(within=60.0))),
        (lived("s", 0.0), 120.0, (training(120.0, within=48.0), upload(within=48.0))),
        (lived("s", 0.0), 350.0, (training(350.0, within=5.0), upload(within=5.0))),
        (lived("r", 0.0, 110.0), 120.0, (training(120.0, 110.0, within=48.0), upload(within=48.0))),
        (
            lived("e", 0.0, 110.0),
            120.0,
            (training(120.0, 110.0, within=48.0, failed=True), upload(within=48.0)),
        ),
        (
            lived("v", 0.0, 110.0, 113.0),
            120.0,
            (training(120.0, 110.0, within=48.0), upload(7.0, within=48.0)),
        ),
        (
            lived("+", 0.0, 110.0, 113.0, 118.5),
            120.0,
            (training(120.0, 110.0, within=48.0), upload(7.0, 5.5, within=48.0)),
        ),
    ],
)
def test_phases_are_told_with_their_ages_and_how_long_they_took(
    run: Run, now: float, expected: tuple[Phase, ...]
) -> None:
    assert phases_of(run, START.timestamp() + now) == expected


def test_phase_that_begins_by_a_clock_that_goes_ahead_is_new() -> None:
    began, _ = phases_of(lived("s", 0.4), START.timestamp())
    assert began.age == 0.0


@pytest.mark.parametrize(
    "run",
    [run("sss"), run("."), run("t"), run("c"), run("i"), lived("r", 0.0), lived("v", 0.0, 110.0), lived("+", 0.0)],
)
def test_phases_are_not_told_of_groups_of_failed_runs_and_without_dates(run: Run) -> None:
    assert phases_of(run, START.timestamp()) == ()


# The timeout is 600 s, and the relay ends what is overdue within two.
@pytest.mark.parametrize(
    ("run", "now"),
    [
        pytest.param(lived("s", -6e10), 30.0, id="started in the year 124"),
        pytest.param(lived("s", 0.0), 4000.0, id="the clock was set an hour ahead while it trained"),
        pytest.param(lived("r", 0.0, 4000.0), 4003.0, id="the clock was set an hour ahead before its score"),
        pytest.param(lived("r", 3600.0, 120.0), 123.0, id="the clock was set an hour back while it trained"),
        pytest.param(lived("+", 0.0, 110.0, 113.0, 50.0), 123.0, id="uploaded before it was validated"),
        pytest.param(lived("+", 0.0, 110.0, 113.0, 4000.0), 4003.0, id="uploaded after its deadline"),
    ],
)
def test_phases_are_not_told_of_lives_that_cannot_be(run: Run, now: float) -> None:
    assert phases_of(run, START.timestamp() + now) == ()


def test_phases_of_what_has_uploaded_are_told_however_late_it_is_seen() -> None:
    training, upload = phases_of(lived("+", 0.0, 110.0, 113.0, 118.5), START.timestamp() + 86_400.0)
    assert (training.took, upload.took) == (110.0, 5.5)


def test_phases_of_what_has_uploaded_at_the_last_moment_are_told() -> None:
    training, upload = phases_of(lived("+", 0.0, 560.0, 563.0, 601.5), START.timestamp() + 603.0)
    assert (training.took, upload.took) == (560.0, 38.5)


@pytest.mark.parametrize(
    ("word", "age", "expected"),
    [("q", 1000.0, 60.0), ("s", 0.0, 60.0), ("s", 299.0, 30.1), ("s", 301.0, 5.98), ("s", 700.0, 2.0),
     ("v", 120.0, 48.0), ("v", 400.0, 2.0)],
)  # fmt: skip
def test_never_more_than_a_tenth_of_what_is_left_passes_without_a_look(word: str, age: float, expected: float) -> None:
    assert look_within(run(word), START.timestamp() + age) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("timeout", "expected"), [(1, 2.0), (60, 2.0), (200, 4.0), (600, 12.0), (1500, 30.0), (36_000, 30.0)]
)
def test_task_that_waits_for_a_node_is_looked_at_after_a_fiftieth_of_its_time(timeout: int, expected: float) -> None:
    assert first_look_after(timeout) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("word", "spent"), [("+", 1), ("W==", 1), ("Wi=", 2), ("inn", 1), ("nnn", 0), ("t", 0), ("V==", 0), ("c", 0)]
)
def test_run_has_cost_what_the_table_says(word: str, spent: int) -> None:
    assert run(word).spent == spent * FEE


def test_tasks_that_were_created_together_are_not_looked_at_together() -> None:
    waits = [spread(30.0, f"0x{'0' * 60}{part:04x}") for part in (0, 0x4000, 0x8000, 0xC000)]
    assert waits == pytest.approx([30.0, 28.125, 26.25, 24.375])
    assert min(spread(30.0, "0x" + "f" * 64), 22.5) == 22.5


def test_failure_says_which_runs_failed_why_and_what_became_of_the_money() -> None:
    bad, late, void = "bad arguments", "too late", "declared void"
    found = Progress(
        end=End.FAILED, stage=Stage.SCORED, run=3, winner=None, reasons=(bad, late, late, void), spent=0, with_images=()
    )
    assert failure(found) == (
        "run 1: bad arguments; runs 2 to 3: too late; run 4: declared void; everything that was paid is refunded"
    )
    one = attrs.evolve(found, reasons=(void,), spent=15 * 10**18)
    assert failure(one) == "declared void; it has cost 15 CNX"
    assert failure(attrs.evolve(found, reasons=())) == ""
