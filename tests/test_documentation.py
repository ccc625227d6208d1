"""The first page and ``docs/`` say what is so: blocks run as they are printed, links lead somewhere."""

import ast
import asyncio
import os
import re
import shlex
import subprocess
import sys
import tomllib
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Coroutine
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest

from crynux_async.cli.app import make_app
from crynux_async.emulator import Owner
from crynux_async.emulator.relay import CNX
from crynux_async.secret import Secret
from crynux_async.signing import Wallet
from crynux_async.testing import running_emulator, running_relay, virtual_time_run
from tests.documents import PAGES, ROOT, Block, block_with, blocks
from tests.integrations.web_lab import GOOD
from tests.optuna_storage import collected_afterwards

README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHIVES, FASTAPI = "LoraArchive.open(path)  ", "crynux.router("
TESTS, TESTS_WITHOUT_PLUGIN = "crynux_bridge: Emulator", "virtual_time_run("

# What needs more than emulated services has a test of its own: three below, one in integrations/test_aiohttp_recipe.py.
SPECIAL = (ARCHIVES, TESTS, TESTS_WITHOUT_PLUGIN, FASTAPI, "web.AppKey(")
PROGRAMS = [
    block for block in blocks("python") if block.reason is None and not any(words in block.text for words in SPECIAL)
]
SHELL = blocks("sh")
RUN_IN_A_SHELL = [block for block in SHELL if block.reason is None]
MARKDOWN = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
KEY = "11" * 32

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def names(found: list[Block]) -> list[str]:
    return [block.name for block in found]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's folder: the files that the pages print, a wallet, and nothing else."""
    for name in [name for name in os.environ if name.startswith("CRYNUX_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    folder = tmp_path / "reader"
    folder.mkdir()
    for block in blocks("toml"):
        (folder / block.text.split()[1]).write_text(block.text)
    wallet = tmp_path / "wallet"
    wallet.write_text(KEY)
    wallet.chmod(0o600)
    monkeypatch.setenv("CRYNUX_WALLET", str(wallet))
    for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.chdir(folder)
    return folder


async def on_services(main: Coroutine[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Await ``main`` where the environment leads to an emulated bridge and relay."""
    owner = Owner(address=Wallet(Secret(KEY)).address, admin_token="token")
    async with running_emulator(owner=owner, speed=10_000) as bridge, running_relay(unet="tiny") as relay:
        settings: dict[str, Any] = dict(bridge.settings())
        for name, value in settings.items():
            monkeypatch.setenv(f"CRYNUX_{name.upper()}", str(value))
        monkeypatch.setenv("CRYNUX_NETWORK", relay.url)
        relay.fund(relay.know_wallet(KEY), 1000 * CNX)
        return await main


def run(block: Block, monkeypatch: pytest.MonkeyPatch, name: str = "__main__") -> dict[str, Any]:
    """Run a block as a program whose ``asyncio.run`` starts emulated services first; return its names.

    Its time is virtual, but for a program with a thread that waits for the loop: the clock would wait for the thread.
    """
    found: dict[str, Any] = {"__name__": name}
    real_run = asyncio.run

    def start(main: Coroutine[Any, Any, Any]) -> Any:
        on_emulators = on_services(main, monkeypatch)
        return real_run(on_emulators) if "to_thread" in block.text else virtual_time_run(lambda: on_emulators)

    with monkeypatch.context() as patch, collected_afterwards() if "optuna" in block.text else nullcontext():
        patch.setattr(asyncio, "run", start)
        exec(compile(block.text, block.name, "exec"), found)
    return found


@pytest.mark.parametrize("block", PROGRAMS, ids=names(PROGRAMS))
def test_program_runs_as_it_is_printed(block: Block, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(block, monkeypatch)
    if '"models"' in block.text:
        assert list(place.glob("models/*.zip"))


def test_programs_on_archives_run_after_the_quickstart(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(block_with('session.run(config, "models")\n        print(path)'), monkeypatch)
    run(block_with(ARCHIVES), monkeypatch)
    assert (place / "lora.safetensors").exists()


@pytest.mark.parametrize(
    ("block", "others"), [(TESTS, ["-p", "no:anyio"]), (TESTS_WITHOUT_PLUGIN, ["-p", "no:asyncio"])]
)
def test_file_of_tests_passes_as_it_is_printed(block: str, others: list[str], place: Path) -> None:
    (place / "test_training.py").write_text(block_with(block).text)
    # Without an option of its own pytest-asyncio warns of what it will do one day.
    warnings = ["-W", "error", "-W", "ignore:The configuration option"]
    plain = [*others, "-p", "no:xdist", "-p", "no:cacheprovider", "-q", *warnings]
    command = [sys.executable, "-m", "pytest", *plain, "test_training.py"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


async def test_web_application_takes_a_job(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> int:
        found = run(block_with(FASTAPI), monkeypatch, "app")
        transport = httpx.ASGITransport(found["app"])
        async with (
            found["app"].router.lifespan_context(found["app"]),
            httpx.AsyncClient(transport=transport, base_url="http://app") as client,
        ):
            return (await client.post("/jobs", json=GOOD)).status_code

    assert await on_services(ask(), monkeypatch) == 202


def test_programs_that_are_not_run_can_be_read_by_python() -> None:
    for block in blocks("python"):
        ast.parse(block.text)


@pytest.mark.real_time
@pytest.mark.parametrize("block", RUN_IN_A_SHELL, ids=names(RUN_IN_A_SHELL))
async def test_shell_block_runs_as_it_is_printed(block: Block, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    bash = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", "-c", block.text, stdout=PIPE, stderr=STDOUT
    )
    async with asyncio.timeout(90):
        out, _ = await bash.communicate()
    assert bash.returncode == 0, out.decode()


@pytest.mark.parametrize("block", SHELL, ids=names(SHELL))
def test_commands_and_options_of_shell_blocks_exist(block: Block, place: Path) -> None:
    for line in block.text.splitlines():
        if line.startswith("crynux-async"):
            parsed(line)


def parsed(line: str) -> None:
    """Raise unless the command line takes these words."""
    words = shlex.split(line, comments=True)[1:]
    make_app().parse_args(words, exit_on_error=False, print_error=False)


def test_every_wish_of_the_first_page_has_a_line_that_runs() -> None:
    rows = re.findall(r"^\| ([^|]+) \| `([^`]+)` \| ([^|]*)\| ([^|]+) \|$", README, re.MULTILINE)
    assert len(rows) > 10
    for wish, line, example, page in rows:
        targets = [target.split("#")[0] for target in LINK.findall(example + page)]
        text = " ".join((ROOT / target).read_text(encoding="utf-8") for target in targets)
        assert line in text, wish


def test_first_page_can_be_read_to_the_end() -> None:
    assert len(README.splitlines()) <= 250


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in LINK.findall(text):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """Return the anchors that headings get where Markdown is shown."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_linked_from_the_first() -> None:
    linked = {link.split("#")[0] for link in LINK.findall(README)}
    assert {str(page.relative_to(ROOT)) for page in PAGES if page.name != "README.md"} - linked == set()


def test_sweep_file_is_that_of_the_examples() -> None:
    (printed,) = (block.text for block in blocks("toml") if block.text.startswith("# sweep.toml"))
    example = (ROOT / "examples" / "sweep.toml").read_text(encoding="utf-8")
    assert tomllib.loads(printed) == tomllib.loads(example)


def test_file_of_tests_is_that_of_the_examples() -> None:
    assert (ROOT / "examples" / "test_my_program.py").read_text(encoding="utf-8") == block_with(TESTS).text


def test_rights_on_a_ledger_are_those_of_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    (printed,) = (block.text for block in blocks("sql"))
    make_app()(["ledger", "migrate", "--help"], result_action="return_value")
    assert " ".join(printed.split()) in " ".join(capsys.readouterr().out.split())
