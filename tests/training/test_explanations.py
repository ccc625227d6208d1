"""What is behind each code: an example that really gets it."""

import pytest

from crynux_async.datasets.explanations import EXPLANATIONS
from crynux_async.datasets.problems import CODES as DATASET_CODES
from crynux_async.training.advice import CODES, check
from crynux_async.training.advice.explanations import EXAMPLES, example_of
from crynux_async.training.config import FineTuneConfig


def test_every_code_has_an_example() -> None:
    assert set(EXAMPLES) == set(CODES)
    assert set(EXPLANATIONS) == set(DATASET_CODES)


@pytest.mark.parametrize("code", sorted(CODES))
def test_example_gets_its_code_with_its_usual_severity(code: str) -> None:
    found = example_of(code)
    assert (found.advice.code, found.advice.severity) == (code, CODES[code].severity)
    assert found.lines


def test_lines_of_an_example_are_those_of_a_config_in_toml() -> None:
    assert example_of("CX102").lines == ('target_modules = "to_k"',)
    assert example_of("CX121").lines == ("# no dataset_url", 'dataset_name = "me/cats"')
    config = FineTuneConfig(model_name="m", dataset_name="d", max_train_steps=500, target_modules="to_k")
    assert "CX102" in {item.code for item in check(config)}


@pytest.mark.parametrize("code", sorted(DATASET_CODES))
def test_explanation_of_a_data_sets_code_is_complete(code: str) -> None:
    behind = EXPLANATIONS[code]
    assert behind.happens.endswith(".")
    assert behind.happens[0].isupper() or behind.happens.startswith(("null", "'::'", "pandas", "convert"))
    assert behind.example
    assert behind.source
