"""What users write, for type checkers: a line that ends in ``# fails`` must be an error, and no other line may be one.

Nothing here is run; ``test_user_code`` gives the file to mypy and to pyright.
"""

from pathlib import Path
from typing import Unpack

from crynux_async import (
    CrynuxError,
    DownloadProgressed,
    EffectiveConfig,
    FineTuneConfig,
    Job,
    JobState,
    Reconciled,
    Secret,
    Session,
    Settings,
)
from crynux_async.archive import LoraArchive
from crynux_async.emulator import Emulator
from crynux_async.settings import SettingsArguments
from crynux_async.training import (
    BRIDGE_FACTS,
    ConfigChanges,
    EffectiveField,
    LrScheduler,
    MixedPrecision,
    Replacement,
    Simulation,
    ValueMapping,
    advice,
    simulate,
)

KEY = "q3hXHA_8O0LuGJ1_tou4_KamMlQqAo-aYwyAIDttdmI="


def open_sessions(ledger: Path, settings: Settings) -> None:
    Session()
    Session(api_key=KEY)
    Session(api_key=None, rate_limit=20, ledger=ledger)
    Session(settings, ledger="jobs.db")
    Session(settings=settings)
    Session(rate_limt=20)  # fails
    Session(rate_limit="20")  # fails
    Session(api_key=b"key")  # fails
    Session(ledger=7)  # fails
    Session(KEY)  # fails


def open_on_an_emulator(bridge: Emulator) -> None:
    Session(**bridge.settings())
    Session(**bridge.settings(api_key=KEY), ledger="jobs.db")
    Session(**bridge.settings(7))  # fails


def make_settings(known: Settings) -> None:
    Settings()
    Settings(api_key=KEY, max_polls=8)
    Settings(api_key=known.api_key, rate_limit=2.5)
    Settings(proxy="http://user:pass@proxy:3128", trust_env=False)
    Settings(KEY)  # fails
    Settings(max_pols=8)  # fails
    Settings(max_polls="8")  # fails
    Settings(max_polls=None)  # fails
    Settings.load()
    Settings.load(environ={"CRYNUX_MAX_POLLS": "8"}, max_creates=None, api_key=KEY)
    Settings.load(max_pols=8)  # fails
    Settings.load(max_polls=[8])  # fails


def key_of(known: Settings) -> str:
    known.api_key.reveal()  # fails
    known.max_polls = 8  # fails
    return known.api_key.reveal() if known.api_key else known.key_id


def session_of_mine(name: str, **arguments: Unpack[SettingsArguments]) -> Session:
    return Session(ledger=f"{name}.db", **arguments)


async def use_a_session(session: Session, config: FineTuneConfig, folder: Path) -> list[Path]:
    jobs: list[Job] = [session.submit_nowait(config, label="a"), await session.submit(config), session.attach("7")]
    jobs.append(session.attach(7, config=config))
    jobs += await session.submit_many([config], label=lambda one: one.model_name)
    session.plan(config)  # fails
    session.submit_nowait(config, lable="a")  # fails
    session.attach(7.5)  # fails
    session.jobs("running")  # fails
    async for job in session.as_completed(jobs):
        await job
    earlier: list[Job] = await session.history(states={JobState.RUNNING}, limit=10)
    found: Job | None = await session.find(task_id=7)
    looked_for: list[Reconciled] = await session.reconcile(at_most=10)
    return [
        await job.download(folder, name="{label}.zip")
        for job in jobs
        if job.state is JobState.SUCCEEDED and earlier and found and looked_for
    ]


def number_of(job: Job) -> int:
    return job.task_id  # fails


async def look_at_a_job(job: Job) -> tuple[str, str | None, CrynuxError | None, Path | None]:
    job.state = JobState.RUNNING  # fails
    job.wanted.folder()  # fails
    Job(job_id="j1")  # fails
    async for event in job.events():
        if isinstance(event, DownloadProgressed):
            divmod(event.received_bytes, event.total_bytes or 1)
    again: Job = await job.wait(timeout=5)
    return again.job_id, again.task_id, job.error, job.path


def secret_of(known: Settings) -> Secret | None:
    return known.api_key


def make_configs(precision: MixedPrecision, word: str) -> None:
    FineTuneConfig(model_name="m", dataset_name="d")
    FineTuneConfig(model_name="m", dataset_url="https://a.example/d.zip", rank=4, learning_rate=1, seed=7)
    FineTuneConfig(model_name="m", dataset_name="d", target_modules=["to_k", "to_q"])
    FineTuneConfig(model_name="m", dataset_name="d", target_modules=("to_k",), model_variant=None)
    FineTuneConfig(model_name="m", dataset_name="d", target_modules=r".*attn2\.to_k", init_lora_weights=True)
    FineTuneConfig(model_name="m", dataset_name="d", lr_scheduler="cosine", prediction_type=None)
    FineTuneConfig(model_name="m", dataset_name="d", mixed_precision=precision, init_lora_weights="loftq")
    FineTuneConfig(dataset_name="d")  # fails
    FineTuneConfig("m", dataset_name="d")  # fails
    FineTuneConfig(model_name=None, dataset_name="d")  # fails
    FineTuneConfig(model_name="m", dataset_name="d", rnak=4)  # fails
    FineTuneConfig(model_name="m", dataset_name="d", rank="4")  # fails
    FineTuneConfig(model_name="m", dataset_name="d", rank=None)  # fails
    FineTuneConfig(model_name="m", dataset_name="d", rank=4.5)  # fails
    FineTuneConfig(model_name="m", dataset_name="d", learning_rate="1e-4")  # fails
    FineTuneConfig(model_name="m", dataset_name="d", target_modules=[1])  # fails
    FineTuneConfig(model_name="m", dataset_name="d", target_modules=None)  # fails
    FineTuneConfig(model_name="m", dataset_name="d", lr_scheduler="cosin")  # fails
    FineTuneConfig(model_name="m", dataset_name="d", lr_scheduler=word)  # fails
    FineTuneConfig(model_name="m", dataset_name="d", lr_scheduler=None)  # fails
    FineTuneConfig(model_name="m", dataset_name="d", mixed_precision="fp8")  # fails
    FineTuneConfig(model_name="m", dataset_name="d", init_lora_weights="magic")  # fails
    FineTuneConfig(model_name="m", dataset_name="d", prediction_type="noise")  # fails
    FineTuneConfig(model_name="m", dataset_name="d", seed=None)  # fails
    FineTuneConfig(model_name="m", dataset_name="d", seed_was_drawn=True)  # fails


def change_configs(config: FineTuneConfig, changes: ConfigChanges, words: dict[str, str]) -> list[FineTuneConfig]:
    config.evolve(rnak=4)  # fails
    config.evolve(rank="4")  # fails
    config.evolve(lr_scheduler="cosin")  # fails
    config.evolve(target_modules=3)  # fails
    config.evolve(4)  # fails
    config.evolve(**words)  # fails
    config.rank = 4  # fails
    schedulers: list[LrScheduler] = ["linear", "cosine"]
    return [
        config.evolve(),
        config.evolve(**changes),
        config.evolve(rank=4, max_train_steps=None, target_modules=["to_k"]),
        *(config.evolve(lr_scheduler=scheduler) for scheduler in schedulers),
        FineTuneConfig.from_dict({"model_name": "m", "dataset_name": "d"}),
        FineTuneConfig.from_dict(config.to_dict(), seed_was_drawn=config.seed_was_drawn),
        FineTuneConfig.from_file(Path("job.toml")),
    ]


def sweep_of(base: FineTuneConfig, **changes: Unpack[ConfigChanges]) -> list[FineTuneConfig]:
    return [base.evolve(**changes, seed=seed) for seed in (1, 2)]  # fails


def ask_before_paying(config: FineTuneConfig) -> tuple[list[advice.Advice], Simulation, EffectiveConfig]:
    simulate(config, images="20")  # fails
    advice.check(config, fee="15")  # fails
    config.effective(mapping=BRIDGE_FACTS)  # fails
    return advice.check(config, 20, fee_cnx=20), simulate(config, 20, BRIDGE_FACTS), config.effective(images=20)


def what_becomes_of(config: FineTuneConfig) -> tuple[tuple[EffectiveField, ...], tuple[Replacement, ...]]:
    effective = config.effective(20, ValueMapping())
    return effective.differences, effective.replacements


def is_healthy(archive: LoraArchive, config: FineTuneConfig) -> bool:
    return archive.health(config).ok


def what_is_compared(config: FineTuneConfig) -> tuple[str, str, bool]:
    return config.digest(), config.asked_digest(), config.seed_was_drawn
