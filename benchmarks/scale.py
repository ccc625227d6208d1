"""What thousands of jobs cost: ``python -m benchmarks.scale [--quick] [--turns N]``.

Memory, CPU, speed and patience of one process that follows up to 100,000 jobs, none of which ends, and what is left in
it of 100,000 that have ended. Every measurement is a process of its own; where several clients are compared they take
turns. *In process* means a fake bridge that answers at once, so that only this library (or a bare task for each job) is
measured; over HTTP all clients ask the same server, which is another process. Memory is the growth of the resident set
per job, configs included where there are any.

The peers are what one would write by hand: a task for each job that asks and sleeps, with aiohttp or httpx; and for
speed, 100 loops that ask without pause.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.reporting import finish, show_table
from crynux_async.emulator.nodes.unet import Unet
from crynux_async.emulator.nodes.weights import Lora
from crynux_async.emulator.nodes.zip_files import Member, write_zip

SIZES = (1_000, 10_000, 100_000)
MONTHS_BYTES = 4_000_000  # what the allocator keeps, and the pages of a larger file; 40 bytes for each of 100,000
BYTES_ALL, BYTES_POLLING, SUBMIT_US, GROWTH, LAG_MS, RESUME_SECONDS = 1_200, 600, 120, 1.3, 20.0, 5.0
SPEED = 0.95
ARCHIVE_MIB = 64
FILE_JOBS = 500
CROWD_RATES = {"crynux_async": 400, "aiohttp": 400, "httpx": 50}  # httpx cannot do much more
CLIENTS = ("aiohttp", "transport", "crynux_async", "httpx")
NAMES = {
    "aiohttp": "aiohttp",
    "httpx": "httpx",
    "transport": "crynux_async, its transport alone",
    "crynux_async": "crynux_async",
}

Figures = dict[str, float]


def main() -> int:
    """Measure, print, and return the exit code: 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="nothing with 100,000 jobs, fewer turns")
    parser.add_argument(
        "--turns", type=int, default=None, help="turns of the comparison of speed (default 3; quick: 2)"
    )
    options = parser.parse_args()
    sizes = SIZES[:2] if options.quick else SIZES
    turns = options.turns or (2 if options.quick else 3)
    began = time.perf_counter()
    results: dict[str, Any] = {"memory": memory(sizes), "hour": hours(sizes), "ledger": ledgers()}
    results["months"] = months(sizes[-1])
    with tempfile.TemporaryDirectory(prefix="scale-benchmark-") as folder:
        archive = Path(folder) / "archive.zip"
        make_archive(archive)
        with serving(archive) as url:
            results["crowd"] = crowds(url)
            results["rate"] = rates(url, turns)
            results["lag"] = lags(url)
    goals = goals_of(results, sizes)
    show_table(
        "Goals",
        ("what", "figure", "goal", "met"),
        [(name, goal["figure"], goal["goal"], "yes" if goal["met"] else "NO") for name, goal in goals.items()],
    )
    finish("scale", {"seconds": round(time.perf_counter() - began, 1), **results, "goals": goals})
    return 0 if all(goal["met"] for goal in goals.values()) else 1


def memory(sizes: Sequence[int]) -> dict[str, Figures]:
    """Measure how much memory a running job takes, and how fast it is taken in."""
    rows = {}
    for size in sizes:
        life = run("life", size)
        rows[str(size)] = {
            "bytes": life["bytes"],
            "config_bytes": run("configs", size)["bytes"],
            "polling_bytes": run("queue", size)["bytes"],
            "submit_us": life["cpu_us"],
            "close_ms": life["close"] * 1e3,
        }
    show_table(
        "A running job, in process, without a ledger",
        ("jobs", "bytes, all", "of them config", "polling alone", "submit, CPU us each", "close, ms"),
        [(int(size), *row.values()) for size, row in rows.items()],
    )
    return rows


def hours(sizes: Sequence[int]) -> dict[str, dict[str, Figures]]:
    """Measure the CPU of an hour of following."""
    programs = {"crynux_async": "hour", "a task for each job": "hour_of_tasks"}
    rows = {name: {str(size): run(program, size) for size in sizes} for name, program in programs.items()}
    show_table(
        "An hour of virtual time, in process",
        ("client", "jobs", "CPU us per job-hour", "polls per job-hour", "CPU us per poll"),
        [(name, int(size), *row.values()) for name, by_size in rows.items() for size, row in by_size.items()],
    )
    return rows


def ledgers() -> dict[str, dict[str, Figures]]:
    """Measure how long it takes to go on with the jobs of an earlier process, and to submit to a file."""
    rows = {place: {str(size): run("resume", size, place) for size in SIZES[:2]} for place in ("memory", "file")}
    show_table(
        "Resuming the running jobs of a ledger, in process",
        ("ledger", "jobs", "resume, s", "close, s"),
        [(place, int(size), *row.values()) for place, by_size in rows.items() for size, row in by_size.items()],
    )
    submitted = run("life_with_file", FILE_JOBS)
    show_table(
        "Submitting to a file, every step of every create durable, in process",
        ("jobs", "submit, ms each", "close, ms"),
        [(FILE_JOBS, submitted["submit"] / FILE_JOBS * 1e3, submitted["close"] * 1e3)],
    )
    return {**rows, "submitted to a file": {str(FILE_JOBS): submitted}}


def months(size: int) -> dict[str, Figures]:
    """Measure what jobs that have ended leave behind in a session with 1,000 live ones."""
    rows = {
        "none has ended": run("months", 0, 0),
        f"{size:,} ended before": run("months", size, 0),
        f"{size:,} end meanwhile": run("months", 0, size),
    }
    show_table(
        "A session with 1,000 live jobs, on a file",
        ("jobs that have ended", "MB of it", "MB that grew", "CPU us for each that ended"),
        [(name, row["bytes"] / 1e6, row["grown"] / 1e6, row["cpu_us"]) for name, row in rows.items()],
    )
    return rows


def crowds(url: str) -> dict[str, dict[str, Figures]]:
    """Compare memory and CPU of clients that follow many jobs over HTTP."""
    rows = {
        client: {str(size): run("crowd", client, url, size, per_second, 3) for size in SIZES[:2]}
        for client, per_second in CROWD_RATES.items()
    }
    show_table(
        "Attached jobs followed over HTTP; peers have a task for each job",
        ("client", "jobs", "bytes a job", "polls/s", "CPU us per poll"),
        [(NAMES[name], int(size), *row.values()) for name, by_size in rows.items() for size, row in by_size.items()],
    )
    return rows


def rates(url: str, turns: int) -> dict[str, Figures]:
    """Compare how fast clients can ask, 100 requests at once."""
    runs: dict[str, list[Figures]] = {client: [] for client in CLIENTS}
    for turn in range(turns):
        for client in CLIENTS[turn % 3 :] + CLIENTS[: turn % 3]:
            runs[client].append(run("rate", client, url, 1.5))
    rows = {}
    for client in CLIENTS:
        pairs = list(zip(runs[client], runs["aiohttp"], strict=True))
        rows[client] = {
            "per_second": median(one["per_second"] for one in runs[client]),
            "ratio": median(one["per_second"] / base["per_second"] for one, base in pairs),
            "cpu_us": median(one["cpu_us"] for one in runs[client]),
            "cpu_ratio": median(base["cpu_us"] / one["cpu_us"] for one, base in pairs),
        }
    show_table(
        f"As many polls as possible, 100 at once, median of {turns} turns",
        ("client", "polls/s", "to aiohttp", "CPU us per poll", "aiohttp's CPU to it"),
        [(NAMES[client], *row.values()) for client, row in rows.items()],
    )
    return rows


def lags(url: str) -> dict[str, Figures]:
    """Measure how late timers fire, idle and at work."""
    rows = {
        "nothing": run("lag", url, 0, 0, 2),
        "10,000 jobs polled": run("lag", url, 10_000, 0, 4),
        "10,000 jobs polled, 8 downloads": run("lag", url, 10_000, 8, 6),
    }
    show_table(
        f"Lag of the event loop; archives of {ARCHIVE_MIB} MiB, verified",
        ("at work", "p50 ms", "p99 ms", "max ms", "polls/s", "MB/s"),
        [(name, *row.values()) for name, row in rows.items()],
    )
    return rows


def _over(alone: Figures) -> float:
    """Return how many MB a session may have that has seen many jobs end: as many as one that has not, and some room."""
    return (alone["bytes"] + MONTHS_BYTES) / 1e6


def goals_of(results: dict[str, Any], sizes: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Return each figure that has a goal, the goal, and whether it was met."""
    least, most = str(sizes[0]), str(sizes[-1])
    alone, *old = results["months"].values()
    hour, memories = results["hour"]["crynux_async"], results["memory"][most]
    at_most = {
        "MB of 1,000 live jobs where many have ended": (
            max(one["bytes"] + one["grown"] for one in old) / 1e6,
            _over(alone),
        ),
        "bytes a job, all included": (memories["bytes"], BYTES_ALL),
        "bytes a job, polling alone": (memories["polling_bytes"], BYTES_POLLING),
        "CPU us a submit": (memories["submit_us"], SUBMIT_US),
        f"CPU per job-hour with {most} jobs to that with {least}": (
            hour[most]["cpu_us"] / hour[least]["cpu_us"],
            GROWTH,
        ),
        "lag p99 in ms": (results["lag"]["10,000 jobs polled, 8 downloads"]["p99_ms"], LAG_MS),
        "seconds to resume 10,000 jobs from a file": (results["ledger"]["file"]["10000"]["resume"], RESUME_SECONDS),
    }
    goals = {name: {"figure": value, "goal": goal, "met": value <= goal} for name, (value, goal) in at_most.items()}
    ratio = results["rate"]["crynux_async"]["ratio"]
    return {
        **goals,
        "polls a second to bare aiohttp's, at least": {"figure": ratio, "goal": SPEED, "met": ratio >= SPEED},
    }


def run(program: str, *arguments: object) -> Figures:
    """Run one of ``benchmarks.scale_clients`` in a process of its own and return its figures."""
    command = [sys.executable, "-m", "benchmarks.scale_clients", program, *map(str, arguments)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{' '.join(command[2:])} failed: {error.stderr}") from error
    print(f"{' '.join(command[3:])}: {ended.stdout.strip()}", file=sys.stderr)
    figures: Figures = {name: float(f"{value:.5g}") for name, value in json.loads(ended.stdout).items()}
    return figures


def make_archive(path: Path) -> None:
    """Make a sound archive: a small LoRA and an optimizer state that is stored as it is."""
    modules = Unet(widths=(8, 16, 32, 32), context=24).targeted(("to_k", "to_q", "to_v", "to_out.0"))
    lora = Lora(modules=modules, rank=4, dtype="F32", seed="1")
    members = (
        Member(name="pytorch_lora_weights.safetensors", pieces=lora.pieces()),
        Member(name="global_step.txt", pieces=(b"100",)),
        Member(name="optimizer.bin", pieces=(bytes(1 << 20) for _ in range(ARCHIVE_MIB)), is_stored=True),
        Member(name="FINISH", pieces=()),
    )
    with path.open("wb") as file:
        for _ in write_zip(file, members):
            pass


@contextmanager
def serving(archive: Path) -> Iterator[str]:
    """Run the server in another process and give its address."""
    command = [sys.executable, "-m", "benchmarks.scale_server", str(archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.terminate()


if __name__ == "__main__":
    sys.exit(main())
