"""Digests of configs: what stands in a ledger stays true, whatever becomes of the code."""

import json
from pathlib import Path
from typing import Any

import pytest

from crynux_async.training.config import FineTuneConfig

# What version 0.1.0 made of these arguments: the values that its ledgers hold, and the digest beside them.
RECORDED: list[dict[str, Any]] = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data" / "config_digests.jsonl").read_text(encoding="utf-8").splitlines()
]


@pytest.mark.parametrize("record", RECORDED, ids=lambda record: record["name"])
def test_digest_of_a_stored_config_is_the_one_that_was_stored_with_it(record: dict[str, Any]) -> None:
    assert FineTuneConfig.from_dict(record["stored"]).digest() == record["digest"]


@pytest.mark.parametrize("record", RECORDED, ids=lambda record: record["name"])
def test_arguments_of_an_old_script_still_make_the_config_that_was_stored(record: dict[str, Any]) -> None:
    assert json.loads(json.dumps(FineTuneConfig(**record["asked"]).to_dict())) == record["stored"]


def test_recorded_digests_are_of_more_than_thirty_trainings() -> None:
    assert len({record["digest"] for record in RECORDED}) > 30
