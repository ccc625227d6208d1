"""``--relay`` as a user types it: real processes, an emulated relay, a wallet in a file."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from crynux_async.emulator.relay import CNX, RelayEmulator
from tests.command_line import environment, run_cli, start
from tests.relay_lab import CREATOR, CREATOR_KEY, FEE, SELECTED_SEED

pytestmark = pytest.mark.real_time

CONFIG = """
model_name = "crynux-network/stable-diffusion-v1-5"
dataset_name = "a/b"
max_train_steps = 50
rank = 2
seed = 42
timeout = 60  # so short that the relay is looked at often
"""
MONEY = 100 * CNX


@pytest_asyncio.fixture
async def relay() -> AsyncIterator[RelayEmulator]:
    async with RelayEmulator(unet="tiny", speed=1000, sampling="never", match_interval=0.05) as relay:
        relay.fund(relay.know_wallet(CREATOR_KEY), MONEY)
        yield relay


@pytest.fixture
def env(relay: RelayEmulator, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "job.toml").write_text(CONFIG)
    wallet = tmp_path / "wallet"
    wallet.write_text(CREATOR_KEY)
    wallet.chmod(0o600)
    return environment(CRYNUX_NETWORK=relay.url, CRYNUX_WALLET=str(wallet), CRYNUX_TRUST_ENV="0")


async def test_run_says_what_it_costs_before_it_sends_and_downloads(
    relay: RelayEmulator, env: dict[str, str], tmp_path: Path
) -> None:
    code, out, err = await run_cli("run", "job.toml", "--relay", "--out", "models", env=env, cwd=tmp_path)
    assert code == 0, err
    shown = out.splitlines()
    assert shown[0].startswith("Costs     15 CNX")
    assert shown[1].startswith("Holds     up to 45 CNX")
    assert "Balance   100 CNX" in shown
    (archive,) = (tmp_path / "models").glob("j*.zip")
    assert archive.name in out.replace("\n", "")
    images = sorted((tmp_path / "models").glob("*.png"))
    assert [image.name for image in images] == [f"{archive.name}-{number}.png" for number in range(len(images))]
    assert images
    assert all(image.read_bytes().startswith(b"\x89PNG") for image in images)
    assert relay.balance(CREATOR.address) == MONEY - FEE
    relay.skew += 11  # the list of payments is up to ten seconds late
    code, out, err = await run_cli("spent", "--relay", env=env, cwd=tmp_path)
    assert (code, out.splitlines()[-1]) == (0, "Everything adds up."), err
    code, out, _ = await run_cli("spent", "--json", env=env, cwd=tmp_path)
    assert (code, json.loads(out)) == (0, {"spent_wei": str(FEE), "held_wei": "0"})


SWEEP = f"""
name = "cats"
folder = "models"
direction = "maximize"

[base]{CONFIG}adam_weight_decay = 0.0

[[grid]]
rank = [2, 4]
"""


async def test_sweep_says_what_it_costs_and_its_page_has_the_validation_images(
    relay: RelayEmulator, env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "sweep.toml").write_text(SWEEP)
    code, out, err = await run_cli("sweep", "run", "sweep.toml", "--relay", "--report", "a.html", env=env, cwd=tmp_path)
    assert code == 0, err
    shown = out.splitlines()
    assert shown[0] == "cats: 2 to send"
    assert shown[1] == "  at most 90 CNX; the account has 100 CNX"
    assert shown[-1] == f"Report: {tmp_path / 'a.html'}"
    (best,) = (line for line in shown if line.startswith("  best: "))
    assert relay.balance(CREATOR.address) == MONEY - 2 * FEE
    images = list((tmp_path / "models").glob("*.png"))
    assert images
    assert (tmp_path / "a.html").read_text().count("data:image/png") == len(images)

    # Later, without the wallet and whatever service the settings name: the ledger and the files have all of it.
    plain = {name: value for name, value in env.items() if name != "CRYNUX_WALLET"}
    assert (await run_cli("sweep", "status", "cats", env=plain, cwd=tmp_path))[:2] == (0, f"cats: 2 done\n{best}\n")
    assert (await run_cli("sweep", "list", env=plain, cwd=tmp_path))[:2] == (0, "cats: 2 done\n")
    code, out, err = await run_cli("sweep", "report", "cats", "--out", "b.html", env=plain, cwd=tmp_path)
    assert code == 0, err
    assert (tmp_path / "b.html").read_text().count("data:image/png") == len(images)
    # What a bridge would be sent in place of a warm-up of 0 is no news of a relay.
    assert "the bridge would" not in (tmp_path / "b.html").read_text()


async def test_task_that_the_ledger_does_not_know_is_named_with_the_command_that_adopts_it(
    relay: RelayEmulator, env: dict[str, str], tmp_path: Path
) -> None:
    assert (await run_cli("run", "job.toml", "--relay", env=env, cwd=tmp_path))[0] == 0
    (tmp_path / "jobs.db").rename(tmp_path / "lost.db")
    assert (await run_cli("run", "job.toml", "--relay", env=env, cwd=tmp_path))[0] == 0
    relay.skew += 11
    lost = next(iter(relay.tasks))
    code, out, _ = await run_cli("spent", "--relay", "--json", env=env, cwd=tmp_path)
    facts = json.loads(out)
    assert (code, facts["adds_up"], [each["task_id"] for each in facts["orphans"]]) == (1, False, [lost])
    code, out, _ = await run_cli("reconcile", "--relay", env=env, cwd=tmp_path)
    assert (code, f"{lost}: orphan" in out, "crynux-async reconcile --relay --adopt" in out) == (0, True, True)
    code, out, err = await run_cli("reconcile", "--relay", "--adopt", "--json", env=env, cwd=tmp_path)
    (found,) = json.loads(out)["found"]
    assert (code, found["task_id"]) == (0, lost), err
    code, _, err = await run_cli("resume", "--relay", "--out", "models", env=env, cwd=tmp_path)
    assert code == 0, err
    assert (tmp_path / "models" / f"{found['job_id']}.zip").is_file()
    assert (await run_cli("spent", "--relay", env=env, cwd=tmp_path))[0] == 0


async def test_run_without_enough_money_sends_nothing(
    relay: RelayEmulator, env: dict[str, str], tmp_path: Path
) -> None:
    relay.fund(CREATOR.address, FEE - 1 - MONEY)
    code, _, err = await run_cli("run", "job.toml", "--relay", env=env, cwd=tmp_path)
    assert code == 3
    assert "the account has 14.999999999999999999 CNX" in " ".join(err.split())
    assert not relay.tasks


async def test_run_that_is_checked_says_how_far_it_is_what_happens_and_what_it_has_cost(
    relay: RelayEmulator, env: dict[str, str], tmp_path: Path
) -> None:
    relay.put_seed(SELECTED_SEED)
    code, out, err = await run_cli("run", "job.toml", "--relay", env=env, cwd=tmp_path)
    assert code == 0, err
    words = [line.rsplit(": ", 1)[1] for line in out.splitlines() if "(task 0x" in line]
    assert words[0] == "running"
    assert {"queued", "started", "scored", "validated", "uploaded"} & set(words)
    assert words[-2:] == ["succeeded", "downloaded"]
    assert "gives the archives of checked tasks to nobody; so far it has cost 15 CNX" in out
    assert "\nCost      30 CNX\n" in out
    assert relay.balance(CREATOR.address) == MONEY - 2 * FEE


async def test_fee_and_network_are_chosen_on_the_command_line(
    relay: RelayEmulator, env: dict[str, str], tmp_path: Path
) -> None:
    address, env = env["CRYNUX_NETWORK"], {**env, "CRYNUX_NETWORK": "mainnet"}
    where = ("--relay", "--network", address)
    code, out, _ = await run_cli("run", "job.toml", *where, "--fee", "20.5", "--dry-run", env=env, cwd=tmp_path)
    assert (code, "1 × 20.5 CNX" in out, relay.tasks) == (0, True, {})
    code, out, err = await run_cli("run", "job.toml", *where, "--fee", "20.5", env=env, cwd=tmp_path)
    assert code == 0, err
    assert out.splitlines()[0].startswith("Costs     20.5 CNX")
    assert out.splitlines()[1].startswith("Holds     up to 61.5 CNX")
    assert relay.balance(CREATOR.address) == MONEY - 41 * CNX // 2
    relay.skew += 11
    assert (await run_cli("spent", *where, env=env, cwd=tmp_path))[0] == 0


@pytest.mark.parametrize(("options", "said"), [(("--relay", "--fee", "0"), "above 0"), (("--fee", "9"), "--relay")])
async def test_fee_that_cannot_be_is_refused_before_anything_is_sent(
    relay: RelayEmulator, env: dict[str, str], tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    code, _, err = await run_cli("run", "job.toml", *options, env=env, cwd=tmp_path)
    assert (code, said in err) == (2, True), err
    assert not relay.tasks


async def test_retry_says_what_it_costs_before_it_sends(
    relay: RelayEmulator, env: dict[str, str], tmp_path: Path
) -> None:
    relay.order("reports_error", "reports_error", "reports_error", "reports_error")
    assert (await run_cli("run", "job.toml", "--relay", env=env, cwd=tmp_path))[0] == 1
    _, out, _ = await run_cli("jobs", "--json", env=env, cwd=tmp_path)
    (job,) = json.loads(out)
    code, out, err = await run_cli("retry", job["job_id"], "--relay", env=env, cwd=tmp_path)
    assert code == 0, err
    assert out.splitlines()[0] == "Costs     15 CNX; what fails is refunded."
    assert f"{job['job_id']} was sent as task 0x" in " ".join(out.split())


async def test_run_of_several_rounds_is_refused_with_the_cure(
    relay: RelayEmulator, env: dict[str, str], tmp_path: Path
) -> None:
    code, _, err = await run_cli("run", "job.toml", "--relay", "--set", "num_train_steps=10", env=env, cwd=tmp_path)
    assert code == 2
    assert "Leave num_train_steps and num_train_epochs out" in " ".join(err.split())
    assert not relay.tasks


async def test_run_that_is_interrupted_is_gone_on_with_by_resume(
    relay: RelayEmulator, env: dict[str, str], tmp_path: Path
) -> None:
    relay.order("silent")
    process = await start("run", "job.toml", "--relay", "--out", "models", env=env, cwd=tmp_path)
    while not relay.tasks:
        await asyncio.sleep(0.05)
    await asyncio.sleep(1)
    os.kill(process.pid, signal.SIGINT)
    out, _ = await process.communicate()
    assert process.returncode == 130
    assert "crynux-async resume --relay" in " ".join(out.decode().split())
    code, out_of_jobs, _ = await run_cli("jobs", "--json", env=env, cwd=tmp_path)
    (row,) = json.loads(out_of_jobs)
    assert (code, row["state"], row["task_id"]) == (0, "running", next(iter(relay.tasks)))
    code, _, _ = await run_cli("resume", "--relay", "--timeout", "2", env=env, cwd=tmp_path)
    assert code == 6, "it is followed again, and not done yet"


async def test_run_on_an_emulated_relay_needs_no_wallet(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(CONFIG)
    code, out, err = await run_cli(
        "run", "job.toml", "--relay", "--emulator", "--json", env=environment(), cwd=tmp_path
    )
    assert (code, json.loads(out)["state"]) == (0, "downloaded"), err
    assert "Balance   1000 CNX" in err


async def test_run_without_a_wallet_says_where_it_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(CONFIG)
    code, _, err = await run_cli("run", "job.toml", "--relay", env=environment(), cwd=tmp_path)
    assert code == 2
    assert "CRYNUX_WALLET" in err


async def test_dry_run_shows_what_the_relay_takes_and_not_what_a_bridge_makes_of_it(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(CONFIG + "adam_weight_decay = 0.0\n")
    for command in (("run", "job.toml", "--relay", "--dry-run"), ("check", "job.toml", "--relay")):
        code, out, err = await run_cli(*command, env=environment(), cwd=tmp_path)
        assert code == 0, err
        assert "the bridge would turn" not in " ".join(out.split())
    code, out, _ = await run_cli("check", "job.toml", env=environment(), cwd=tmp_path)
    assert "the bridge would turn" in " ".join(out.split())
    command = ("check", "job.toml", "--relay", "--set", "num_train_steps=10")
    code, out, _ = await run_cli(*command, env=environment(), cwd=tmp_path)
    assert (code, "CX201" in out) == (2, True)
