"""What a command must be given that goes on with the jobs of a session: where they are, and for which fee."""

import shlex
from typing import TYPE_CHECKING

import attrs

from crynux_async.settings import RELAYS, Settings

if TYPE_CHECKING:
    from crynux_async.session import Session

_USUAL_FEE = attrs.fields(Settings).fee.default


def options_of(session: "Session") -> str | None:
    """Return the options, such as "--relay --ledger /srv/jobs.db"; None where no other process could find its jobs.

    Args:
        session: Where the jobs are; open.
    """
    # A ledger in memory has none, and neither has one of a user's own that no command could open.
    place = getattr(session.ledger, "place", None)
    if place is None:
        return None
    options = service_options(session)
    fee = session.settings.fee
    if options and fee != _USUAL_FEE:  # else they would be sent again for another fee than was agreed to
        options.append(f"--fee {fee}")
    return " ".join([*options, f"--ledger {shlex.quote(place)}"])


def service_options(session: "Session") -> list[str]:
    """Return the options that lead a command to the service of a session; none for the bridge of the settings.

    Args:
        session: Where the jobs are; open.
    """
    option = session.service_facts.option
    if not option:
        return []
    network = next((name for name, address in RELAYS.items() if address == session.service), session.service)
    return [option, f"--network {shlex.quote(network)}"]
