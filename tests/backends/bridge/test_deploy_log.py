"""What is made of a bridge's last words: the eight start-up failures as the real program says them."""

import json
from pathlib import Path
from typing import Any

import pytest

from crynux_async.backends.bridge.deploy_log import explain

FAILURES = json.loads((Path(__file__).parents[2] / "data/bridge/start_failures.json").read_text())


def logged(text: str) -> str:
    return f'time="2026-11-28T18:00:00+09:00" level=fatal msg={json.dumps(text)} func=main.main file="/main.go:40"\n'


def test_failures_are_all_eight() -> None:
    assert len({failure["name"] for failure in FAILURES}) == 8


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure["name"])
@pytest.mark.parametrize("write", [lambda text: text, logged, lambda text: f"Initializing logger...\n{text}"])
def test_failure_has_its_own_sentence_and_cure(failure: dict[str, Any], write: Any) -> None:
    (known,) = explain(write(failure["text"]))
    assert known.name == failure["name"]
    assert known.sentence.endswith(".")
    assert known.cure.endswith((".", "}."))


def test_last_failure_comes_last_and_each_once() -> None:
    log = (
        logged("not enough relay account balance")
        + logged("InitDB Failed:x")
        + logged("not enough relay account balance")
    )
    assert [known.name for known in explain(log)] == ["database away", "not enough money"]


def test_port_that_is_taken_and_other_bad_configs_are_known() -> None:
    taken = logged("listen tcp 127.0.0.1:5028: bind: address already in use")
    assert [known.name for known in explain(taken)] == ["port taken"]
    bad = "Error reading config filehttp.max_body_bytes must be set to a positive value"
    assert [known.name for known in explain(bad)] == ["bad config"]


def test_log_of_a_bridge_that_is_well_needs_no_explanation() -> None:
    assert explain(logged("Starting application server...") + logged("ProcessTasks: task 3 status 2")) == []
