"""Names that modules hand on when they are first asked for."""

import importlib

import pytest

from crynux_async.backends import ability_values
from crynux_async.backends import base as backends_base
from crynux_async.ledgers import base as ledgers_base
from crynux_async.ledgers import seldom_rows


@pytest.mark.parametrize("name", ["Action", "Finding", "LostCreate", "OwnTask", "Payment"])
def test_value_of_an_ability_is_handed_on_with_the_seam(name: str) -> None:
    assert getattr(backends_base, name) is getattr(ability_values, name)


@pytest.mark.parametrize("name", ["BudgetRow", "EventRow", "GateRow", "Neighbours", "Settlement", "StepRow", "WishRow"])
def test_row_that_is_seldom_needed_is_handed_on_with_the_protocol(name: str) -> None:
    assert getattr(ledgers_base, name) is getattr(seldom_rows, name)


@pytest.mark.parametrize("module", ["crynux_async.backends.base", "crynux_async.ledgers.base"])
def test_every_name_that_a_module_lists_is_there_and_no_other(module: str) -> None:
    imported = importlib.import_module(module)

    assert [name for name in imported.__all__ if not hasattr(imported, name)] == []
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'Nothing'"):
        _ = imported.Nothing
