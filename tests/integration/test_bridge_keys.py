"""``bridge keys`` on the emulated program: no key goes that a job needs, and none stays where it opens nothing."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crynux_async import DownloadFailed, FineTuneConfig, JobState, Session
from crynux_async.backends.bridge.admin import BridgeAdmin
from crynux_async.cli import bridge_keys, bridge_up
from crynux_async.cli.bridge_folder import open_folder
from crynux_async.cli.bridge_process import ProgramRun
from crynux_async.cli.settings_file import put_settings, settings_in
from crynux_async.errors import OwnershipError, UsageError
from crynux_async.settings import Settings
from tests.bridge_folders import new_bridge, newcomer, program

pytestmark = pytest.mark.real_time

CONFIG = FineTuneConfig(
    model_name="crynux-ai/stable-diffusion-v1-5", dataset_url="https://example.com/b.zip", max_train_steps=10, rank=2,
    timeout=1800,
)  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRYNUX_MIN_POLL_INTERVAL", "0.2")
    home = newcomer(tmp_path, monkeypatch)
    monkeypatch.setenv("CRYNUX_MIN_POLL_INTERVAL", "0.2")
    monkeypatch.setenv("CRYNUX_POLL_DELAY", "0.000001")
    return home


@pytest.fixture
async def folder(home: Path) -> AsyncIterator[Path]:
    path = new_bridge(home)
    await bridge_up.up(path, program(home, "--speed", "1000"), 60, 30.0, as_json=False)
    yield path
    ProgramRun(path).stop()


def prefixes(folder: Path) -> list[str]:
    url = open_folder(folder).config.base_url
    return [key.prefix for key in BridgeAdmin(url, None, keys=folder / "keys.json").list_keys()]


def settings(home: Path) -> dict[str, object]:
    return settings_in(home / "home/.config/crynux-async/settings.toml")


async def trained(home: Path, **options: str) -> str:
    """Train a model that is not fetched, and return its job's name."""
    async with Session(Settings.load(**options), ledger=home / "jobs.db") as session:  # type: ignore[arg-type]
        job = await session.submit(CONFIG)
        await job.wait()
        assert job.state is JobState.SUCCEEDED
        return job.job_id


@pytest.mark.parametrize("name", ["missing.db", "empty.db", "home"])
async def test_ledger_that_is_not_there_is_no_ledger_without_jobs(home: Path, folder: Path, name: str) -> None:
    (home / "empty.db").touch()
    known = prefixes(folder)
    for command in (
        bridge_keys.delete(folder, known[0], force=False, ledger=home / name),
        bridge_keys.rotate(folder, known[0], home / name),
        bridge_keys.retire(folder, home / name),
    ):
        with pytest.raises(UsageError, match=f"there is no ledger at {home / name}") as caught:
            await command
        assert caught.value.field == "ledger"
    assert prefixes(folder) == known
    await bridge_keys.delete(folder, known[0], force=True, ledger=home / name)
    assert prefixes(folder) == []


async def test_name_that_is_empty_names_no_key_not_even_the_only_one(home: Path, folder: Path) -> None:
    (only,) = prefixes(folder)
    for command in (
        bridge_keys.delete(folder, "", force=True, ledger=None),
        bridge_keys.limits(folder, "", 5, None),
    ):
        with pytest.raises(UsageError, match=f"no key is named; there are: {only}") as caught:
            await command
        assert caught.value.field == "key"
    assert prefixes(folder) == [only]


async def test_whole_key_that_is_not_known_is_not_repeated(home: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match=r"0 keys begin with 'AAAAAAAA\.\.\.'; there are: ") as caught:
        await bridge_keys.limits(folder, "A" * 43 + "=", 5, None)
    assert "A" * 9 not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_key_is_kept_while_its_model_is_not_fetched_by_whatever_address_it_was_made(
    home: Path, folder: Path, host: str
) -> None:
    await trained(home, base_url=f"http://{host}:{open_folder(folder).config.port}")
    (prefix,) = prefixes(folder)
    with pytest.raises(UsageError, match=r"1 job of .* may not be fetched yet"):
        await bridge_keys.delete(folder, prefix, force=False, ledger=None)
    await bridge_keys.rotate(folder, prefix, None)
    assert prefixes(folder)[0] == prefix


async def test_model_of_a_replaced_key_is_fetched_with_that_key(home: Path, folder: Path) -> None:
    job_id = await trained(home)
    (prefix,) = prefixes(folder)
    await bridge_keys.rotate(folder, prefix, None)
    assert str(settings(home)["api_key"])[:8] == prefixes(folder)[1] != prefix
    async with Session(Settings.load(), ledger=home / "jobs.db") as session:
        job = await session.find(job_id)
        assert job is not None
        path = await job.download(home / "out")
    assert path.is_file()
    await bridge_keys.retire(folder, None)
    assert prefix not in prefixes(folder)


async def test_wanted_model_of_a_replaced_key_is_fetched_by_itself_where_the_key_is_kept(
    home: Path, folder: Path
) -> None:
    async with Session(Settings.load(), ledger=home / "jobs.db") as session:
        job_id = (await session.submit(CONFIG, folder=home / "out")).job_id
    (prefix,) = prefixes(folder)
    await bridge_keys.rotate(folder, prefix, None)
    elsewhere = Settings.load(keys=str(home / "other.json"))
    async with Session(elsewhere, ledger=home / "jobs.db") as stranger:
        job = await stranger.find(job_id)
        assert job is not None
        await job.wait()
        with pytest.raises(OwnershipError, match=r"made with another credential \([0-9a-f]{16}\)"):
            await job.download(home / "out")
    async with Session(Settings.load(), ledger=home / "jobs.db") as session:
        job = await session.find(job_id)
        assert job is not None
        told = [event async for event in job.events(after=0)]
        assert [event for event in told if isinstance(event, DownloadFailed)] == []
        assert job.state is JobState.DOWNLOADED


async def test_model_of_a_key_that_is_nowhere_stays_refused(home: Path, folder: Path) -> None:
    job_id = await trained(home)
    (prefix,) = prefixes(folder)
    await bridge_keys.rotate(folder, prefix, None)
    async with Session(Settings.load(keys=str(home / "other.json")), ledger=home / "jobs.db") as session:
        job = await session.find(job_id)
        assert job is not None
        with pytest.raises(OwnershipError):
            await job.download(home / "out")


async def test_deleted_key_goes_out_of_the_settings_and_up_puts_another_one_there(
    home: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (prefix,) = prefixes(folder)
    await bridge_keys.delete(folder, prefix, force=True, ledger=None)
    assert "api_key" not in settings(home)
    assert settings(home)["base_url"] == open_folder(folder).config.base_url
    assert "It is taken out of" in capsys.readouterr().out
    await bridge_up.up(folder, None, 60, 30.0, as_json=False)
    assert str(settings(home)["api_key"])[:8] == prefixes(folder)[0] != prefix


async def test_settings_of_another_bridge_keep_their_key(home: Path, folder: Path) -> None:
    other = home / "home/.config/crynux-async/settings.toml"
    key = settings(home)["api_key"]
    other.write_text(f'api_key = "{key}"\nbase_url = "https://bridge.example"\n')
    await bridge_keys.delete(folder, prefixes(folder)[0], force=True, ledger=None)
    assert settings(home)["api_key"] == key


async def test_settings_that_still_have_a_retired_key_get_the_one_in_its_place(home: Path, folder: Path) -> None:
    await trained(home)
    old = settings(home)["api_key"]
    await bridge_keys.rotate(folder, prefixes(folder)[0], None)
    new = settings(home)["api_key"]
    put_settings(home / "home/.config/crynux-async/settings.toml", {"api_key": str(old)})
    async with Session(Settings.load(), ledger=home / "jobs.db") as session:
        for job in await session.history():
            await job.download(home / "out")
    await bridge_keys.retire(folder, None)
    assert settings(home)["api_key"] == new != old
