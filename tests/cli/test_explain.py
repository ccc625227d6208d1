"""``crynux-async explain``: what it prints."""

import json

import pytest

from crynux_async.cli.exits import Exit
from crynux_async.cli.explain import explain
from crynux_async.datasets.problems import CODES as DATASET_CODES
from crynux_async.datasets.problems import RETIRED
from crynux_async.errors import UsageError
from crynux_async.training.advice import CODES


def printed(capsys: pytest.CaptureFixture[str], *codes: str) -> str:
    assert explain(codes, as_json=False) is Exit.DONE
    return capsys.readouterr().out


def test_code_of_a_config_says_what_happens_an_example_what_to_do_and_the_source(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = " ".join(printed(capsys, "CX201").split())
    assert text.startswith("CX201 warning: every round but the last is lost")
    assert "The job takes 2 rounds" in text
    assert "num_train_steps = 250" in text
    assert CODES["CX201"].action in text
    assert CODES["CX201"].source in text


def test_code_of_a_data_set_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(printed(capsys, "cx321").split())
    assert text.startswith("CX321 error: captions in .txt files")
    assert "0.png with 0.txt" in text
    assert DATASET_CODES["CX321"].advice in text


def test_without_a_code_all_are_listed_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys).splitlines()
    assert [line.split()[0] for line in lines] == sorted([*CODES, *DATASET_CODES])


def test_beginning_lists_those_that_begin_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert [line.split()[0] for line in printed(capsys, "cx2").splitlines()] == [
        c for c in CODES if c.startswith("CX2")
    ]


def test_unknown_code_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="there is no code 'nothing'; `crynux-async explain` lists them"):
        explain(["nothing"], as_json=False)
    with pytest.raises(UsageError, match="did you mean CX201"):
        explain(["CX201x"], as_json=False)


def test_retired_code_says_so_and_what_took_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(printed(capsys, "cx332").split())
    assert text.startswith("CX332 is retired")
    assert "parquet not looked into" in text
    assert "CX333" in text
    explain(["CX332", "CX333"], as_json=True)
    page, retired = json.loads(capsys.readouterr().out)
    assert (page["code"], retired["code"], retired["retired"]) == ("CX333", "CX332", True)


def test_retired_code_is_given_to_nothing_else() -> None:
    assert not RETIRED.keys() & {*CODES, *DATASET_CODES}


def test_brackets_in_texts_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    assert '["to_k", "to_out"]' in printed(capsys, "CX103")


def test_json_has_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    explain(["CX201", "CX4"], as_json=True)
    first, *rest = json.loads(capsys.readouterr().out)
    assert list(first) == ["code", "severity", "title", "happens", "example", "action", "source"]
    assert [item["code"] for item in rest] == [code for code in CODES if code.startswith("CX4")]
