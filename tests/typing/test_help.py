"""What ``help()`` shows of the classes that users fill in: every argument with its type, and nothing private."""

import inspect
import pydoc
import re

import pytest

from crynux_async import (
    FineTuneConfig,
    Job,
    Reconciled,
    Session,
    SessionStatistics,
    Settings,
    Unconfirmed,
)
from crynux_async.settings import SettingsArguments
from crynux_async.training import ConfigChanges


@pytest.mark.parametrize(
    "cls",
    [
        FineTuneConfig,
        Settings,
        ConfigChanges,
        SettingsArguments,
        Session,
        Job,
        SessionStatistics,
        Unconfirmed,
        Reconciled,
    ],
)
def test_help_shows_nothing_private_and_no_any(cls: type) -> None:
    shown = pydoc.render_doc(cls, renderer=pydoc.plaintext)
    assert cls.__name__ in shown
    assert re.findall(r"\bAny\b", shown) == []
    assert re.findall(r"^ \|  (_[a-z]\w*)", shown, re.MULTILINE) == []
    assert "reason=" not in shown, "the whole of a default value is shown"


@pytest.mark.parametrize(("cls", "arguments"), [(FineTuneConfig, ConfigChanges), (Settings, SettingsArguments)])
def test_arguments_that_pass_through_are_those_of_the_class(cls: type, arguments: type) -> None:
    assert list(arguments.__annotations__) == list(inspect.signature(cls).parameters)


def test_changes_of_a_config_have_the_types_of_its_arguments() -> None:
    parameters = inspect.signature(FineTuneConfig).parameters
    assert ConfigChanges.__annotations__ == {name: item.annotation for name, item in parameters.items()}


def test_settings_that_pass_through_have_the_types_of_the_settings_or_are_none() -> None:
    parameters = inspect.signature(Settings).parameters
    assert SettingsArguments.__annotations__ == {name: item.annotation | None for name, item in parameters.items()}


@pytest.mark.parametrize("cls", [FineTuneConfig, Settings])
def test_every_argument_is_described(cls: type) -> None:
    described = re.findall(r"^    (\w+): ", inspect.getdoc(cls) or "", re.MULTILINE)
    assert [name for name in inspect.signature(cls).parameters if name not in described] == []
