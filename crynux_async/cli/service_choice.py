"""The options by which a command is told at which service its jobs are."""

import shlex
from typing import TYPE_CHECKING, Annotated

import attrs
from cyclopts import Parameter

from crynux_async.errors import UsageError
from crynux_async.values import Value

if TYPE_CHECKING:
    from crynux_async.settings import Settings


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class ServiceChoice(Value):
    """At which service jobs are: the bridge of the settings, or a relay.

    Attributes:
        relay: Whether they are at a relay, signed and paid by the wallet of CRYNUX_WALLET.
        network: Whose relay: "mainnet", "staging", an address, or None for what the settings say.
    """

    relay: Annotated[
        bool,
        Parameter(
            negative="", help="Jobs at the relay, signed and paid by the wallet of CRYNUX_WALLET.", show_default=False
        ),
    ] = False
    network: Annotated[
        str | None,
        Parameter(
            help="With --relay: mainnet, where CNX is money, staging, or the address of a relay; else CRYNUX_NETWORK.",
            show_default=False,
        ),
    ] = None

    @property
    def option(self) -> str:
        """What a command that goes on with these jobs must be given, with a space before it, or ""."""
        if not self.relay:
            return ""
        return " --relay" if self.network is None else f" --relay --network {shlex.quote(self.network)}"

    @property
    def paid_option(self) -> str:
        """What a command that sends such jobs must be given, with a space before it, or ""."""
        return self.option

    @property
    def place(self) -> str:
        """What the service is called."""
        return "relay" if self.relay else "bridge"

    def settings(self) -> "Settings":
        """Return the settings, with what was chosen here.

        Raises:
            SettingsError: They cannot work.
            UsageError: Something was given that only a relay takes.
        """
        from crynux_async.settings import Settings

        given = {"network": self.network, **self._more()}
        for name, value in given.items():
            if value is not None and not self.relay:
                raise UsageError(f"--{name} goes with --relay; a bridge has its own", field=name)
        return Settings.load(**given)  # type: ignore[arg-type]  # the names are those of settings

    def _more(self) -> dict[str, str | None]:
        return {}


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class PaidService(ServiceChoice):
    """At which service jobs are that may be paid for.

    Attributes:
        fee: CNX that each task at the relay pays, or None for what the settings say.
    """

    fee: Annotated[
        str | None,
        Parameter(
            help="With --relay: CNX that a task pays, above 0; more is served sooner. Else CRYNUX_FEE, or 15.",
            show_default=False,
        ),
    ] = None

    @property
    def paid_option(self) -> str:
        """What a command that sends such jobs must be given, with a space before it, or ""."""
        # Without it they would be sent for another fee than was agreed to here.
        return self.option if self.fee is None else f"{self.option} --fee {shlex.quote(self.fee)}"

    def _more(self) -> dict[str, str | None]:
        return {"fee": self.fee}
