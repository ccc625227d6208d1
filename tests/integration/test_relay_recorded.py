"""The emulated relay against the real one's recorded answers, word for word."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from crynux_async.emulator.relay import RelayEmulator
from tests import relay_groups as groups
from tests import relay_scenarios as scenarios
from tests.relay_lab import CREATOR, CREATOR_KEY, Lab
from tests.relay_terms import Terms

RECORDED: dict[str, list[dict[str, Any]]] = {
    scenario["name"]: scenario["steps"]
    for scenario in json.loads(
        (Path(__file__).parents[1] / "data" / "relay" / "recorded.json").read_text(encoding="utf-8")
    )
}
ANSWERS = 316
PLAYED: dict[str, Callable[[Lab], Awaitable[None]]] = {
    "time, balance, deposit": scenarios.time_and_balance,
    "create (json), repeat, get, cancel (no node joined)": scenarios.create_and_cancel,
    "create (form), create (multipart), checkpoint parts": scenarios.forms_and_checkpoints,
    "create: refused": scenarios.refused_creates,
    "network": scenarios.network,
    "one task to success": scenarios.one_task,
    "two steps: unfinished checkpoint, then FINISH": scenarios.two_rounds,
    "node reports a task error": scenarios.reported_error,
    "deadline start + timeout in three states": scenarios.deadlines,
    "slow upload and queue deadline": scenarios.queue_deadline,
    "relay killed (-9) and started again in the middle of a task": scenarios.restart,
    "wallet login and the lists it opens": scenarios.login,
    "group of three, all equal": groups.all_equal,
    "group of three, one differs": groups.one_differs,
    "group of three, no majority": groups.no_majority,
    "group, one times out": groups.one_times_out,
    "group, all three report an error": groups.all_report_errors,
    "group, one reports an error": groups.one_reports_an_error,
    "group: one aborted early, two equal": groups.one_aborted_early,
    "group: two aborted early, one finished": groups.two_aborted_early,
    "group: a sibling cancelled while queued": groups.sibling_cancelled,
    "group: validated twice at once": groups.validated_twice_at_once,
    "distance_threshold 0 (the template): three equal scores": groups.threshold_of_the_template,
}
WITHOUT_MONEY = "time, balance, deposit"


async def answers(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Play a scenario, and return name and answer of every step in the recording's terms."""
    threshold = 0 if name.startswith("distance_threshold 0") else 5
    connector = aiohttp.TCPConnector(force_close=True)
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        RelayEmulator(nodes=0, control_port=0, threshold=threshold) as relay,
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
    ):
        if name != WITHOUT_MONEY:
            relay.fund(CREATOR.address, 1000 * 10**18)
        relay.know_wallet(CREATOR_KEY)
        lab = Lab(relay, session)
        await PLAYED[name](lab)
        return Terms().answers(lab.steps)


@pytest.mark.parametrize("name", PLAYED)
async def test_answers_of_scenario_equal_the_recording(name: str) -> None:
    assert await answers(name) == [(step["name"], step["response"]) for step in RECORDED[name]]


def test_recording_is_played_in_full() -> None:
    assert {name for name, steps in RECORDED.items() if steps} == set(PLAYED)
    assert sum(len(steps) for steps in RECORDED.values()) == ANSWERS
