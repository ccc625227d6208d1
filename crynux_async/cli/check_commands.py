"""The commands that say what would be trained, and explain what was said of it."""

from pathlib import Path

from crynux_async.cli.exits import Exit, guard
from crynux_async.cli.options import Flag, Json, Set
from crynux_async.training.service import BRIDGE_FACTS


def check(
    config: Path,
    /,
    *,
    set_: Set | None = None,
    dataset: Path | None = None,
    images: int | None = None,
    fee: float = BRIDGE_FACTS.fee_cnx,
    relay: Flag = False,
    json: Json = False,
) -> int:
    """Show what would be trained, what it costs, and what cannot work or will surprise you; nothing is sent.

    The exit code is 0 when it can work, and 2 when it cannot.

    Args:
        config: TOML or JSON file with the fields of the bridge's API.
        set_: Change a field, as field=value; may be given again.
        dataset: The data set's folder or archive on this machine, to be checked with it.
        images: The number of its images, when there is no copy here.
        fee: The service's fee for a round, in CNX.
        relay: As the relay takes it: nothing is replaced, and a job is one round.
        json: Print everything as JSON on standard output.
    """
    from crynux_async.backends.relay.arguments import RELAY_FACTS
    from crynux_async.cli import check as check_command

    def work() -> Exit:
        service = RELAY_FACTS if relay else BRIDGE_FACTS
        changes = set_ or []
        return check_command.check(
            config, changes, dataset=dataset, images=images, fee_cnx=fee, service=service, as_json=json
        )

    return guard(work, as_json=json)


def explain(*codes: str, json: Json = False) -> int:
    """Explain a code: what happens, an example, what to do, and where the rule comes from.

    Args:
        codes: Codes such as CX201, or their beginning, such as CX2, for a list; all of them if not given.
        json: Print everything as JSON on standard output.
    """
    from crynux_async.cli import explain as explain_command

    return guard(lambda: explain_command.explain(codes, as_json=json), as_json=json)
