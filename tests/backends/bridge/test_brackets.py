"""Lost creates are found between their neighbours, and never given to the wrong job."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crynux_async.backends.base import Finding, LostCreate, Verdict
from crynux_async.backends.bridge.brackets import Standing, bracket_of, candidates, find_lost, judge, search_requests
from crynux_async.backends.bridge.wire import RemoteStatus
from crynux_async.clock import utc_now
from crynux_async.errors import NotFoundError

NONE: frozenset[str] = frozenset()
NOW = datetime(2026, 11, 1, tzinfo=UTC)


def lost(
    job_id: str = "j1",
    before: list[str] | None = None,
    after: list[str] | None = None,
    *,
    is_closed: bool = True,
    began_at: datetime | None = None,
) -> LostCreate:
    return LostCreate(
        job_id=job_id,
        payload="{}",
        began_at=began_at or utc_now(),
        before=["9"] if before is None else before,
        after=["12"] if after is None else after,
        is_closed=is_closed,
    )


class Bridge:
    """What a bridge says of numbers; those that it was not told of do not exist."""

    def __init__(self, standings: Mapping[int, Standing]) -> None:
        self.standings = standings
        self.requests = 0

    def _of(self, number: str) -> Standing:
        self.requests += 1
        return self.standings.get(int(number), Standing.MISSING)

    async def owns(self, number: str) -> bool | None:
        return {Standing.OURS: True, Standing.OTHERS: False}.get(self._of(number))

    async def status(self, number: str) -> str:
        standing = self._of(number)
        if standing is Standing.MISSING:
            raise NotFoundError("record not found", status=500)
        return RemoteStatus.RUNNING if standing is Standing.RUNNING else RemoteStatus.FAILED


async def find(bridge: Bridge, *creates: LostCreate, known: frozenset[str] = NONE, at_most: int = 50) -> list[Finding]:
    found = await find_lost(bridge, creates, known=known, at_most=at_most)  # type: ignore[arg-type]  # the two calls used
    assert bridge.requests <= search_requests(creates, known=known, at_most=at_most)
    return found


def test_bracket_compares_numbers_as_numbers() -> None:
    bracket = bracket_of(lost(before=["9", "10", "2"], after=["100", "99"], began_at=NOW))
    assert (bracket.above, bracket.below) == (10, 99)


async def test_only_task_of_the_key_in_the_bracket_is_found() -> None:
    bridge = Bridge({10: Standing.OTHERS, 11: Standing.OURS})
    [finding] = await find(bridge, lost())
    assert (finding.verdict, finding.task_id) == (Verdict.FOUND, "11")


async def test_task_that_another_job_has_is_not_a_candidate() -> None:
    bridge = Bridge({10: Standing.OURS, 11: Standing.OURS})
    [finding] = await find(bridge, lost(), known=frozenset({"10"}))
    assert (finding.verdict, finding.task_id) == (Verdict.FOUND, "11")


async def test_bracket_of_millions_of_numbers_is_measured_and_not_written_down() -> None:
    create = lost(before=["9"], after=[str(10**15)])
    bridge = Bridge({})
    [finding] = await find(bridge, create, known=frozenset({"5", "11", "12"}))
    assert (finding.verdict, bridge.requests) == (Verdict.OPEN, 0)
    assert f"{10**15 - 12} numbers lie in its bracket" in finding.explanation
    assert list(islice(candidates(create, at_most=50), 3)) == ["10", "11", "12"]


@pytest.mark.parametrize(
    ("before", "after", "ids"),
    [(["9"], ["12"], ["10", "11"]), (["9"], [], ["10", "11", "12"]), ([], ["4"], ["3", "2", "1"]), ([], [], [])],
)
def test_candidates_are_the_numbers_that_may_be_looked_at(before: list[str], after: list[str], ids: list[str]) -> None:
    create = lost(before=before, after=after, began_at=NOW)
    assert list(candidates(create, at_most=3)) == ids
    assert list(candidates(attrs.evolve(create, is_closed=False), at_most=3)) == []


async def test_two_lost_creates_in_one_bracket_get_no_task_and_hear_of_both() -> None:
    bridge = Bridge({10: Standing.OURS, 11: Standing.OURS})
    first, second = await find(bridge, lost("j1"), lost("j2"))
    assert {first.verdict, second.verdict} == {Verdict.AMBIGUOUS}
    assert first.task_id is second.task_id is None
    assert list(first.candidates) == list(second.candidates) == ["10", "11"]
    assert "j2" in first.explanation
    assert "10" in first.explanation
    assert "11" in first.explanation


async def test_one_task_for_two_lost_creates_is_given_to_neither() -> None:
    bridge = Bridge({10: Standing.OURS, 11: Standing.OTHERS})
    findings = await find(bridge, lost("j1"), lost("j2"))
    assert {finding.verdict for finding in findings} == {Verdict.AMBIGUOUS}


async def test_lost_creates_in_brackets_of_their_own_are_both_found() -> None:
    bridge = Bridge({10: Standing.OURS, 13: Standing.OURS})
    findings = await find(bridge, lost("j1", ["9"], ["11"]), lost("j2", ["12"], ["14"]))
    assert [finding.task_id for finding in findings] == ["10", "13"]


async def test_create_that_is_not_in_its_bracket_was_not_created() -> None:
    bridge = Bridge({10: Standing.OTHERS, 11: Standing.OTHERS})
    [finding] = await find(bridge, lost())
    assert finding.verdict is Verdict.NOT_CREATED
    assert "safe" in finding.explanation


async def test_empty_bracket_needs_no_request_to_say_that_nothing_was_created() -> None:
    bridge = Bridge({})
    [finding] = await find(bridge, lost(before=["9"], after=["10"]))
    assert (finding.verdict, bridge.requests) == (Verdict.NOT_CREATED, 0)


async def test_running_task_in_the_bracket_leaves_it_open() -> None:
    [finding] = await find(Bridge({10: Standing.RUNNING, 11: Standing.OTHERS}), lost())
    assert finding.verdict is Verdict.OPEN
    assert "still run" in finding.explanation


async def test_running_task_beside_one_of_the_key_leaves_it_open() -> None:
    # Where another program uses the key, the one that has ended may be that program's, and the lost one still runs.
    bridge = Bridge({10: Standing.RUNNING, 11: Standing.OURS})
    [finding] = await find(bridge, lost())
    assert (finding.verdict, finding.task_id) == (Verdict.OPEN, None)
    assert "made with this key is 11" in finding.explanation
    bridge = Bridge({10: Standing.OTHERS, 11: Standing.OURS})
    [finding] = await find(bridge, lost())
    assert (finding.verdict, finding.task_id) == (Verdict.FOUND, "11")


async def test_task_without_result_in_the_bracket_leaves_it_open() -> None:
    [finding] = await find(Bridge({10: Standing.WITHOUT_RESULT, 11: Standing.OTHERS}), lost())
    assert finding.verdict is Verdict.OPEN
    assert "cannot be told" in finding.explanation


async def test_task_without_result_beside_one_of_the_key_leaves_it_to_the_user() -> None:
    # Where another program uses the key, the one with a result may be that program's, and the lost one has failed.
    bridge = Bridge({10: Standing.WITHOUT_RESULT, 11: Standing.OURS})
    [finding] = await find(bridge, lost())
    assert (finding.verdict, finding.task_id, list(finding.candidates)) == (Verdict.AMBIGUOUS, None, ["11"])
    assert "whose 10 was cannot be told" in finding.explanation
    bridge.requests = 0
    [finding] = await find(bridge, lost(), known=frozenset({"10"}))
    assert (finding.verdict, finding.task_id) == (Verdict.FOUND, "11"), "the one that failed is another job's"


async def test_task_of_the_key_is_not_given_to_a_job_of_whose_bracket_only_a_part_was_looked_at() -> None:
    bridge = Bridge(dict.fromkeys(range(10, 70), Standing.OTHERS) | {11: Standing.OURS, 65: Standing.OURS})
    [finding] = await find(bridge, lost(after=[]), at_most=50)
    assert (finding.verdict, list(finding.candidates)) == (Verdict.AMBIGUOUS, ["11"])
    assert "not all numbers" in finding.explanation
    bridge.requests = 0
    [finding] = await find(bridge, lost(after=["65"]), at_most=60)
    assert (finding.verdict, finding.task_id) == (Verdict.FOUND, "11")


async def test_bracket_is_left_alone_while_a_create_in_it_is_under_way() -> None:
    bridge = Bridge({10: Standing.OURS})
    [finding] = await find(bridge, lost(is_closed=False))
    assert (finding.verdict, bridge.requests) == (Verdict.OPEN, 0)
    assert "under way" in finding.explanation


async def test_bracket_with_too_many_numbers_says_what_looking_at_all_costs() -> None:
    bridge = Bridge({})
    [finding] = await find(bridge, lost(before=["9"], after=["110"]), at_most=50)
    assert (finding.verdict, bridge.requests) == (Verdict.OPEN, 0)
    assert "at_most=100" in finding.explanation
    assert "200 requests" in finding.explanation


async def test_first_lost_create_is_looked_for_below_the_next_task() -> None:
    bridge = Bridge({40: Standing.OURS, 41: Standing.OTHERS})
    [finding] = await find(bridge, lost(before=[], after=["42"]), at_most=5)
    assert (finding.verdict, list(finding.candidates)) == (Verdict.AMBIGUOUS, ["40"])
    assert "earlier jobs" in finding.explanation


async def test_first_lost_create_that_is_nowhere_below_stays_open() -> None:
    # The first task that a new key makes is answered as another key's, so that "not created" would not be certain.
    bridge = Bridge(dict.fromkeys(range(30, 42), Standing.OTHERS))
    [finding] = await find(bridge, lost(before=[], after=["42"]), at_most=5)
    assert finding.verdict is Verdict.OPEN
    assert "at_most=10" in finding.explanation


@pytest.mark.parametrize("standings", [{}, {2: Standing.MISSING, 1: Standing.MISSING}], ids=["none", "missing"])
async def test_first_lost_create_before_which_a_bridge_had_no_task_was_not_created(
    standings: dict[int, Standing],
) -> None:
    [finding] = await find(Bridge(standings), lost(before=[], after=[str(len(standings) + 1)]))
    assert finding.verdict is Verdict.NOT_CREATED


async def test_first_lost_create_for_which_all_was_looked_at_says_how_to_go_on_without_looking() -> None:
    bridge = Bridge({1: Standing.OTHERS, 2: Standing.OTHERS})
    [finding] = await find(bridge, lost(before=[], after=["3"]))
    assert finding.verdict is Verdict.OPEN
    assert "Resubmit" in finding.explanation
    assert "at_most" not in finding.explanation


async def test_lost_create_without_any_other_task_says_what_closes_its_bracket() -> None:
    [finding] = await find(Bridge({}), lost(before=[], after=[]))
    assert finding.verdict is Verdict.OPEN
    assert "submit" in finding.explanation


async def test_lost_create_after_the_last_known_task_is_found_above_it() -> None:
    [finding] = await find(Bridge({10: Standing.OTHERS, 11: Standing.OURS}), lost(after=[]))
    assert (finding.verdict, finding.task_id) == (Verdict.FOUND, "11")


async def test_end_of_the_sequence_shows_that_nothing_was_created() -> None:
    bridge = Bridge({10: Standing.OTHERS, 11: Standing.OTHERS})
    [finding] = await find(bridge, lost(after=[]))
    assert finding.verdict is Verdict.NOT_CREATED
    assert bridge.requests < 50


@pytest.mark.parametrize(("days", "verdict"), [(1, Verdict.NOT_CREATED), (5, Verdict.OPEN)])
def test_numbers_that_a_bridge_may_have_deleted_prove_nothing(days: int, verdict: Verdict) -> None:
    create = lost(began_at=NOW - timedelta(days=days))
    standings = {10: Standing.OTHERS, 11: Standing.MISSING}
    assert judge(create, [create], standings, known=NONE, at_most=50, now=NOW).verdict is verdict


TRUTHS = st.lists(st.sampled_from(["ours", "others", "lost", "burnt", "stranger"]), min_size=1, max_size=12)


@given(
    truth=TRUTHS,
    delays=st.lists(st.integers(0, 3), min_size=12, max_size=12),
    ends=st.lists(st.sampled_from(["done", "failed", "running"]), min_size=12, max_size=12),
)
def test_task_found_is_always_the_one_that_was_lost(truth: list[str], delays: list[int], ends: list[str]) -> None:
    """Whatever happened in whichever order, FOUND names the lost create's own task, and NOT_CREATED is true.

    "stranger" is a task of another program that uses the key.
    """
    number_of: dict[str, int] = {}
    standings: dict[int, Standing] = {}
    creates: list[LostCreate] = []
    known: set[str] = set()
    answered: list[tuple[int, int]] = []
    for index, kind in enumerate(truth):
        number = index + 1
        is_others = kind in ("burnt", "others")
        done = Standing.OTHERS if is_others else Standing.OURS
        unclear = {"failed": Standing.WITHOUT_RESULT, "running": Standing.RUNNING}
        standings[number] = done if kind == "burnt" else unclear.get(ends[index], done)
        if kind == "ours":
            known.add(str(number))
            answered.append((number, index + delays[index]))
        if kind == "lost":
            number_of[f"j{index}"] = number
    for index, kind in enumerate(truth):
        if kind == "lost":
            before = [str(number) for number, at in answered if at < index]
            after = [str(number) for number, _ in answered if number - 1 > index + delays[index]]
            creates.append(lost(f"j{index}", before, after, began_at=NOW))
    every = {**dict.fromkeys(range(1, 60), Standing.MISSING), **standings}
    for create in creates:
        finding = judge(create, creates, every, known=frozenset(known), at_most=50, now=NOW)
        if finding.verdict is Verdict.FOUND:
            assert finding.task_id == str(number_of[create.job_id])
        assert finding.verdict is not Verdict.NOT_CREATED
