"""What each Python and each event loop gives: ``python -m benchmarks.pythons [PYTHON ...]``.

Every interpreter that is named (the running one, if none is) has this package installed, and uvloop where that is to
be measured. Each runs the same jobs from submit to archive on an emulated bridge in its process, in fresh processes in
turn; what counts is processor time, as a ratio to the first interpreter with asyncio's own loop.
"""

import statistics
import subprocess
import sys
import time

from benchmarks.reporting import finish, show_table

ROUNDS = 5
JOBS = 50
LOOPS = ("asyncio", "uvloop")


def main() -> None:
    """Measure and print."""
    pythons = sys.argv[1:] or [sys.executable]
    found = {(python, loop): _version(python, loop) for python in pythons for loop in LOOPS}
    there = {which: version for which, version in found.items() if version}
    times: dict[tuple[str, str], list[float]] = {which: [] for which in there}
    for _ in range(ROUNDS):
        for python, loop in there:
            times[python, loop].append(float(_run(python, f"import benchmarks.pythons as b; b.work({loop!r})")))
    medians = {which: statistics.median(values) for which, values in times.items()}
    base = next(iter(medians.values()))
    rows = [(there[which], which[1], 1000 * each / JOBS, each / base) for which, each in medians.items()]
    show_table(
        f"{JOBS} jobs with their emulated bridge, median of {ROUNDS}", ("Python", "loop", "ms a job", "ratio"), rows
    )
    finish("pythons", {"ratio": {f"{version} {loop}": round(ratio, 3) for version, loop, _, ratio in rows}})


def _version(python: str, loop: str) -> str:
    try:
        return _run(python, f"import {loop}, platform; print(platform.python_version())")
    except subprocess.CalledProcessError:
        return ""


def _run(python: str, program: str) -> str:
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def work(loop: str) -> None:
    """Run the jobs on a kind of loop and print the seconds of processor time that they took."""
    import asyncio
    import importlib
    import tempfile

    from crynux_async import FineTuneConfig
    from crynux_async.testing import emulated_session

    config = FineTuneConfig(
        model_name="crynux-ai/stable-diffusion-v1-5", dataset_url="https://a.example/cats.zip", max_train_steps=200
    )

    async def run_jobs() -> float:
        with tempfile.TemporaryDirectory() as folder:
            async with emulated_session(rate_limit=600) as session:
                await session.run(config, folder)  # what is imported late does not count
                before = time.process_time()
                jobs = [session.submit_nowait(config) for _ in range(JOBS)]
                await asyncio.gather(*(job.download(folder, name="{task_id}.zip") for job in jobs))
                return time.process_time() - before

    factory = importlib.import_module(loop).new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        print(runner.run(run_jobs()))


if __name__ == "__main__":
    main()
