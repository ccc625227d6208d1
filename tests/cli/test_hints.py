"""Commands that are printed as hints: pasted, they go on with the same jobs at the same service."""

import ast
import re
import shlex
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from inspect import signature
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cyclopts import App
from rich.console import Console

import crynux_async.cli
from crynux_async.backends.base import OwnTask, Payment
from crynux_async.backends.relay.arguments import RELAY_FACTS
from crynux_async.cli.app import make_app
from crynux_async.cli.console import open_console
from crynux_async.cli.ledger_place import ledger_option
from crynux_async.cli.reconcile import print_unconfirmed
from crynux_async.cli.resume import ResumeOrder
from crynux_async.cli.resume import _say_what_goes_on as say_what_runs_on
from crynux_async.cli.run import _say_what_goes_on
from crynux_async.cli.service_choice import PaidService, ServiceChoice
from crynux_async.cli.spent import _lines
from crynux_async.cli.sweep import RunOrder, _options_of
from crynux_async.cli.waiting import check_answers
from crynux_async.errors import UnreachableError
from crynux_async.settings import RELAYS
from crynux_async.states import JobState
from crynux_async.supervision.audit import Audit, Orphan
from crynux_async.sweeps.view import Subject, view_of
from crynux_async.training.service import BRIDGE_FACTS, ServiceFacts
from tests.fake_backend import make_config
from tests.report.views import START

RELAY = PaidService(relay=True, network="https://relay.example/?a=1&b=2", fee="20")
LEDGER = " --ledger cats.db"
PLACE = " --relay --network 'https://relay.example/?a=1&b=2'"
OF_A_SERVICE = re.compile(r"crynux-async (?:resume|reconcile|download|retry|abandon|run|spent)\b(?!\))")


def console() -> Console:
    return Console(file=StringIO(), width=1000)


def printed(shown: Console) -> str:
    return cast(StringIO, shown.file).getvalue()


def job(state: JobState) -> Any:
    return SimpleNamespace(job_id="j1", task_id="0x1", state=state, label="")


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the texts of a module that are no docstrings, with what is filled in as it is written."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | inside:
            yield node.lineno, node.value


def test_every_hint_of_the_command_line_that_needs_a_service_carries_it() -> None:
    folder = Path(crynux_async.cli.__file__).parent
    found, without = 0, []
    for path in sorted(folder.glob("*.py")):
        for line, text in texts(ast.parse(path.read_text(encoding="utf-8"))):
            for hint in OF_A_SERVICE.finditer(text):
                found += 1
                rest = text[hint.start() :].partition("crynux-async ")[2].partition("crynux-async ")[0]
                if not re.search(r"option}|again}", rest):
                    without.append((path.name, line, text))
    assert found >= 9
    # A bridge is one's own and in the settings by then; the ledger's first job may be anywhere.
    assert [(name, text) for name, _, text in without if name not in ("bridge_up.py", "ledger_place.py")] == []


def test_relay_and_network_are_in_what_is_said_of_unconfirmed_creates() -> None:
    shown = console()
    lost: Any = SimpleNamespace(
        job=job(JobState.UNCONFIRMED),
        began_at=datetime(2026, 1, 1, tzinfo=UTC),
        digest="d" * 64,
        after=None,
        before=None,
    )
    print_unconfirmed(shown, [lost], RELAY, "cats.db")
    assert (
        f"crynux-async reconcile{PLACE}{LEDGER}. Pay again: crynux-async retry JOB{PLACE} --fee 20{LEDGER}."
        in printed(shown)
    )


def test_relay_and_network_are_in_what_is_said_of_a_job_that_is_left() -> None:
    shown = console()
    _say_what_goes_on(job(JobState.PLANNED), shown, RELAY, None)
    assert f"crynux-async resume --send{PLACE} --fee 20. To give it up: crynux-async abandon j1{PLACE}\n" in printed(
        shown
    )
    shown = console()
    _say_what_goes_on(job(JobState.RUNNING), shown, RELAY, None)
    assert f"in time: crynux-async resume{PLACE}\n" in printed(shown)


def test_ledger_is_in_what_is_said_of_a_job_that_is_left() -> None:
    shown = console()
    _say_what_goes_on(job(JobState.PLANNED), shown, ServiceChoice(), "cats.db")
    assert f"resume --send{LEDGER}. To give it up: crynux-async abandon j1{LEDGER}\n" in printed(shown)
    for service, go_on in ((RELAY, f"resume{PLACE}{LEDGER}\n"), (ServiceChoice(), f"download 0x1{LEDGER}\n")):
        shown = console()
        _say_what_goes_on(job(JobState.RUNNING), shown, service, "cats.db")
        assert printed(shown).endswith(f"crynux-async {go_on}")


def test_bridge_needs_no_option() -> None:
    shown = console()
    _say_what_goes_on(job(JobState.RUNNING), shown, ServiceChoice(), None)
    assert printed(shown).endswith("To go on: crynux-async download 0x1\n")


def test_relay_and_network_are_in_what_is_said_of_a_service_that_does_not_answer() -> None:
    session: Any = SimpleNamespace(
        statistics=lambda: SimpleNamespace(jobs={JobState.RUNNING: 1}, silent_for=400.0, trouble="it is away"),
        settings=SimpleNamespace(unreachable_timeout=300.0),
    )
    with pytest.raises(UnreachableError, match="'crynux-async resume --relay --network staging' goes on with it"):
        check_answers(session, ServiceChoice(relay=True, network="staging").option)


def test_relay_and_network_are_in_what_is_said_of_a_task_without_a_job() -> None:
    task = OwnTask(task_id="0x1", stage="started", can_have_model=True, config=None)
    payment = Payment(task_id="0x1", paid=1, refunded=0, at=datetime(2026, 1, 1, tzinfo=UTC))
    orphan = Orphan(task=task, payments=(payment,))
    found = Audit(spent=0, held=0, mismatches=(), unlisted=(), orphans=(orphan,), foreign=())
    assert f"crynux-async reconcile{PLACE} --adopt" in "\n".join(_lines(found, RELAY.option))


def test_ledger_is_in_what_resume_says_of_what_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "my jobs.db"
    order = ResumeOrder(ledger=place, service=RELAY, out=None, timeout=None, patience=None, send=False, as_json=False)
    say_what_runs_on(open_console(), [job(JobState.RUNNING)], order)
    assert capsys.readouterr().out.endswith(f"To go on: crynux-async resume{PLACE} --ledger '{place}'\n")


def test_ledger_is_in_hints_as_it_was_given_but_for_a_password() -> None:
    assert ledger_option(None) == ""
    assert ledger_option("~/a b.db") == " --ledger '~/a b.db'"
    assert ledger_option("postgresql://me:secret@db/jobs") == (
        " --ledger 'postgresql://me@db/jobs?schema=crynux_async'"
    )


def test_page_of_a_sweep_names_the_command_with_service_and_ledger() -> None:
    order = RunOrder(
        file=Path("a.toml"), is_agreed=True, is_emulated=False, service=RELAY, force=False, retries=0, stop_after=None,
        report=Path("a.html"), images=None, ledger="cats.db", price=None, as_json=False,
    )  # fmt: skip
    assert order.page is not None
    view = view_of(
        Subject(name="my cats", base=make_config().to_dict()), [], written_at=START, options=order.page.options
    )
    assert view.command == f"crynux-async sweep retry 'my cats'{PLACE} --fee 20{LEDGER}"


def test_page_of_an_emulated_sweep_that_nobody_remembers_asks_the_session_for_its_command() -> None:
    order = RunOrder(
        file=Path("a.toml"), is_agreed=True, is_emulated=True, service=PaidService(), force=False, retries=0,
        stop_after=None, report=Path("a.html"), images=None, ledger=None, price=None, as_json=False,
    )  # fmt: skip
    assert order.page is not None
    assert order.page.options is None


@pytest.mark.parametrize(
    ("service", "facts", "options"),
    [
        (RELAYS["staging"], RELAY_FACTS, "--relay --network staging --ledger cats.db"),
        ("http://127.0.0.1:9", RELAY_FACTS, "--relay --network http://127.0.0.1:9 --ledger cats.db"),
        ("http://127.0.0.1:9", BRIDGE_FACTS, "--ledger cats.db"),
    ],
)
def test_page_of_a_sweep_that_is_written_later_names_where_its_jobs_are(
    service: str, facts: ServiceFacts, options: str
) -> None:
    session: Any = SimpleNamespace(service=service, service_facts=facts)
    assert _options_of(session, "cats.db") == options


@pytest.mark.parametrize(
    "command", ["resume", "resume --send", "reconcile --adopt", "retry j1", "abandon j1", "download 0x1", "spent"]
)
def test_commands_take_what_hints_carry(command: str) -> None:
    is_paid = command in ("resume --send", "retry j1")
    options = f"{RELAY.paid_option if is_paid else RELAY.option}{LEDGER}"
    _, bound, _ = make_app().parse_args(shlex.split(command + options), exit_on_error=False)
    service = bound.arguments["service"]
    assert (service.relay, service.network, bound.arguments["ledger"]) == (True, RELAY.network, "cats.db")


def test_every_command_about_jobs_at_a_service_takes_a_ledger() -> None:
    found = {" ".join(name): signature(command) for name, command in commands(make_app())}
    about_jobs = {name for name, known in found.items() if "service" in known.parameters}
    assert {"run", "download", "resume", "cancel", "sweep run"} <= about_jobs
    assert {name for name in about_jobs if "ledger" not in found[name].parameters} == set()


def commands(part: App, *names: str) -> Iterator[tuple[tuple[str, ...], Callable[..., object]]]:
    """Yield the names of every command of a part of the command line, and what it calls."""
    if part.default_command is not None:
        yield names, part.default_command
    for name in part:
        if not name.startswith("-"):
            yield from commands(part[name], *names, name)
