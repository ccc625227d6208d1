"""Optuna chooses what to train next; a study that is started again goes on with the jobs that it has.

Run it as is: it uses an emulated service on this machine. It needs 'crynux-async[optuna]'.
"""

import asyncio

import optuna

from crynux_async import FineTuneConfig
from crynux_async.sweeps import Trial
from crynux_async.sweeps.optuna import OptunaSweep
from crynux_async.testing import emulated_session


def config_of(trial: optuna.Trial) -> FineTuneConfig:
    return FineTuneConfig(
        model_name="crynux-ai/stable-diffusion-v1-5",
        dataset_url="https://example.com/my-pictures.zip",
        max_train_steps=60,
        rank=trial.suggest_categorical("rank", [2, 4]),
        learning_rate=trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True),
        timeout=1800,
    )


def objective(trial: Trial) -> float:
    """Return what Optuna minimizes: here how far the model is from a norm of 0.1."""
    assert trial.norms is not None
    return abs(trial.norms.total - 0.1)


async def main() -> None:
    study = optuna.create_study(study_name="cats", storage="sqlite:///cats-study.db", load_if_exists=True)
    sweep = OptunaSweep(study, config_of, objective, folder="crynux-sweep")
    async with emulated_session(speed=1000) as session:
        await sweep.optimize(session, n_trials=6, n_jobs=3, on_trial=print)
    print(study.best_trial.params, study.best_value)


if __name__ == "__main__":
    asyncio.run(main())
