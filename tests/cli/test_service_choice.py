"""The options by which a command is told at which service its jobs are."""

from decimal import Decimal

import pytest

from crynux_async.cli.service_choice import PaidService, ServiceChoice
from crynux_async.errors import SettingsError, UsageError


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYNUX_NETWORK", "https://relay.example")
    monkeypatch.setenv("CRYNUX_FEE", "12.5")


def test_options_take_the_place_of_the_environment() -> None:
    settings = PaidService(relay=True, network="staging", fee="0.1").settings()
    assert (settings.network, settings.fee) == ("staging", Decimal("0.1"))


def test_environment_counts_where_nothing_is_given() -> None:
    settings = PaidService(relay=True).settings()
    assert (settings.network, settings.fee) == ("https://relay.example", Decimal("12.5"))


@pytest.mark.parametrize("service", [ServiceChoice(network="staging"), PaidService(fee="20")])
def test_what_only_a_relay_takes_is_refused_for_a_bridge(service: ServiceChoice) -> None:
    with pytest.raises(UsageError, match="goes with --relay"):
        service.settings()


@pytest.mark.parametrize("fee", ["0", "-1", "0.0000000000000000001", "nan", "inf", "15 CNX", "1e30"])
def test_fee_that_is_not_above_zero_is_refused(fee: str) -> None:
    with pytest.raises(SettingsError, match="fee"):
        PaidService(relay=True, fee=fee).settings()


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        (ServiceChoice(), ""),
        (ServiceChoice(relay=True), " --relay"),
        (PaidService(relay=True, network="staging"), " --relay --network staging"),
    ],
)
def test_next_command_is_told_where_the_jobs_are(service: ServiceChoice, expected: str) -> None:
    assert service.option == expected
