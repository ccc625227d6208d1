"""The commands about what the ledger remembers."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from crynux_async.cli.exits import execute, guard
from crynux_async.cli.options import Flag, Json, Yes, within
from crynux_async.cli.service_choice import PaidService, ServiceChoice

_BRIDGE = ServiceChoice()
_PAID_BRIDGE = PaidService()
_Tags = Annotated[list[str], Parameter(name="--tag", negative="", show_default=False)]
_Timeout = Annotated[float | None, Parameter(validator=within(0))]
_AtMost = Annotated[int | None, Parameter(validator=within(1))]
_Count = Annotated[int, Parameter(validator=within(1))]
_Bytes = Annotated[int, Parameter(validator=within(0))]
_Port = Annotated[int, Parameter(validator=within(0, 65535))]
_Open = Annotated[bool, Parameter(name="--open", negative="--no-open")]
_States = Annotated[list[str], Parameter(name="--state", negative="", show_default=False)]


def jobs(
    *,
    state: _States | None = None,
    label: str | None = None,
    tag: _Tags | None = None,
    ledger: str | None = None,
    json: Json = False,
    csv: Flag = False,
    public: Flag = False,
    health: Flag = False,
) -> int:
    """List every job that was ever submitted from here.

    Args:
        state: Only jobs in this state; may be given again.
        label: Only jobs with this label; 'grid/*' for all whose label begins with "grid/".
        tag: Only jobs with this tag, as name=value; may be given again.
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
        json: Print everything that is known of them as JSON.
        csv: Print everything that is known of them as a table for other programs.
        public: With --json or --csv, leave out what is private: paths, host, credential and budget.
        health: With --json or --csv, read every archive that is here and tell whether its model is healthy.
    """
    from crynux_async.cli import jobs as jobs_command

    states, tags = state or [], tag or []
    if not json and not csv:
        return guard(lambda: jobs_command.show_list(ledger, states, label, tags, wants_detail=public or health))
    from crynux_async.cli.job_facts import Detail

    detail = Detail(is_public=public, reads_archives=health)
    work = jobs_command.show_facts(ledger, states, label, tags, as_json=json, as_csv=csv, detail=detail)
    return execute(work, as_json=json)


def board(*, ledger: str | None = None, port: _Port = 0, open_: _Open = True) -> int:
    """Show all jobs and sweeps in a browser, as they go. It only reads: nothing is sent, followed or changed.

    It listens on this machine alone, and lets in whoever has the token in the address that it prints.

    From another machine: ssh -L 8700:127.0.0.1:8700 HOST crynux-async board --port 8700.

    Args:
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
        port: Port to listen on; 0 for any that is free.
        open_: Open the address in the browser of this desktop, where there is one.
    """
    from crynux_async.cli import web_board

    return execute(web_board.serve(ledger, port=port, opens_browser=open_))


def resume(
    *,
    out: Path | None = None,
    send: Flag = False,
    timeout: _Timeout = None,
    patience: _Timeout = None,
    service: PaidService = _PAID_BRIDGE,
    ledger: str | None = None,
    json: Json = False,
) -> int:
    """Go on with every unfinished job: follow it to its end, and fetch the models that were asked for.

    It waits for jobs that another process holds, and takes them over when its lease ends.

    The exit code is 4 when the outcome of a create is unknown, and 1 when a job ended badly.
    It is 5 when a model could not be fetched, and 6 when something is left: to another process, or unsent.

    Args:
        out: Also fetch models for which no download was asked, into this folder.
        send: Also send what was planned and never sent.
        timeout: Seconds to wait at most; the tasks go on after that.
        patience: Seconds to wait at most for jobs that another process holds; as long as it takes if not given.
        service: Where the jobs are.
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
        json: Print the result as JSON on standard output, progress on standard error.
    """
    from crynux_async.cli.resume import ResumeOrder
    from crynux_async.cli.resume import resume as go_on

    order = ResumeOrder(
        ledger=ledger, service=service, out=out, timeout=timeout, patience=patience, send=send, as_json=json
    )
    return execute(go_on(order), as_json=json)


def cancel(
    job: list[str],
    /,
    *,
    yes: Yes = False,
    service: ServiceChoice = _BRIDGE,
    ledger: str | None = None,
    json: Json = False,
) -> int:
    """Cancel jobs: what was not sent is not sent, and a task that waits for a node at the relay is refunded.

    It says first what that costs and refunds and, on a terminal, asks.

    A task that a node has goes on, as every task at a bridge does.
    The exit code is then that of the first job that could not be cancelled.

    Args:
        job: Job or task numbers, as in the list of jobs.
        yes: Do not ask.
        service: Where the jobs are.
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
        json: Print the result as JSON on standard output, everything else on standard error.
    """
    from crynux_async.cli import cancel as cancel_command

    order = cancel_command.CancelOrder(names=job, is_agreed=yes, ledger=ledger, service=service, as_json=json)
    return execute(cancel_command.cancel(order), as_json=json)


def abandon(job: list[str], /, *, service: ServiceChoice = _BRIDGE, ledger: str | None = None) -> int:
    """Give jobs up. A task that runs goes on: a bridge's is paid for; the relay refunds one that nobody validates.

    Args:
        job: Job or task numbers, as in the list of jobs.
        service: Where the jobs are.
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
    """
    from crynux_async.cli import abandon as abandon_command

    return execute(abandon_command.abandon(ledger, job, service))


def retry(
    *job: str,
    state: _States | None = None,
    label: str | None = None,
    tag: _Tags | None = None,
    at_most: _AtMost = None,
    timeout: int | None = None,
    yes: Yes = False,
    service: PaidService = _PAID_BRIDGE,
    ledger: str | None = None,
) -> int:
    """Send jobs again, each as another try of the same job: by name, or by state.

    It says first what that costs and, on a terminal, asks.

    A job whose create has an unknown outcome is sent again only if it is named.
    If it was created after all, both tries are paid for.

    Args:
        job: Job or task numbers, as in the list of jobs.
        state: All in this state; may be given again. With --label or --tag alone, what failed, expired or was rejected.
        label: Only jobs with this label; 'grid/*' for all whose label begins with "grid/".
        tag: Only jobs with this tag, as name=value; may be given again.
        at_most: How many jobs at most, the oldest first.
        timeout: Seconds that one round may take on a node from now on; may be raised, not lowered.
        yes: Do not ask.
        service: Where the jobs are.
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
    """
    from crynux_async.cli import retry as retry_command

    order = retry_command.RetryOrder(
        names=job,
        states=state or [],
        label=label,
        tags=tag or [],
        at_most=at_most,
        timeout=timeout,
        is_agreed=yes,
        ledger=ledger,
        service=service,
    )
    return execute(retry_command.retry(order))


def reconcile(
    *,
    at_most: _Count = 50,
    evidence_bytes: _Bytes = 1 << 30,
    service: ServiceChoice = _BRIDGE,
    adopt: Flag = False,
    ledger: str | None = None,
    json: Json = False,
) -> int:
    """Look for the tasks of jobs whose create has an unknown outcome, only where they can be.

    At a bridge that is between two numbers, at the relay under one name.

    The relay also tells of tasks that were paid for and that the ledger does not know, because it was lost.

    Args:
        at_most: Tasks to look at for each job; where there are more between the two numbers, it is left alone.
        evidence_bytes: Bytes of archives to fetch at most (1 GiB) where several tasks are left, to tell which is whose.
        service: Where the jobs are.
        adopt: Put such tasks into the ledger, so that they are followed; only if no other ledger has them.
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
        json: Print the result as JSON.
    """
    from crynux_async.cli import reconcile as reconcile_command

    return execute(
        reconcile_command.reconcile(
            ledger, service, at_most=at_most, evidence_bytes=evidence_bytes, adopt=adopt, as_json=json
        ),
        as_json=json,
    )


def spent(*, service: ServiceChoice = _BRIDGE, ledger: str | None = None, json: Json = False) -> int:
    """Show what all jobs have cost. With --relay the ledger is compared with the relay's own list, to the wei.

    The exit code is 0 when everything adds up, and 1 when something is left to be explained.

    Args:
        service: Where the jobs are; the relay is asked, with a login of the wallet, for every payment and refund.
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
        json: Print the result as JSON.
    """
    from crynux_async.cli import spent as spent_command

    work = (
        spent_command.audited(ledger, service, as_json=json)
        if service.relay
        else spent_command.spent(ledger, as_json=json)
    )
    return execute(work, as_json=json)
