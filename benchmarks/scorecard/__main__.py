"""``python -m benchmarks.scorecard [CASE ...] [--seeds N]``."""

import argparse
import logging
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import attrs

from benchmarks.reporting import finish, show_table
from benchmarks.scorecard import (
    anywhere,
    archives,
    cancelled_downloads,
    command_line,
    download_crashes,
    downloads,
    full_disk,
    hostile_archives,
    hostile_disks,
    leaks,
    many_hosts,
    pacing,
    polling,
    relay_crashes,
    shared_gate,
    submission,
    sweep_crashes,
    web_workers,
)
from benchmarks.scorecard.case import Case, Context, Result, SkippedError, Verdict

CASES: tuple[Case, ...] = (
    *pacing.CASES,
    *shared_gate.CASES,
    *polling.CASES,
    *submission.CASES,
    *downloads.CASES,
    *download_crashes.CASES,
    *cancelled_downloads.CASES,
    *hostile_disks.CASES,
    *archives.CASES,
    *hostile_archives.CASES,
    *leaks.CASES,
    *relay_crashes.CASES,
    *sweep_crashes.CASES,
    *anywhere.CASES,
    *many_hosts.CASES,
    *full_disk.CASES,
    *command_line.CASES,
    *web_workers.CASES,
)


def main() -> int:
    """Run the cases that were asked for, or all of them, and return the exit code."""
    known = {case.name: case for case in CASES}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scorecard", description=__doc__)
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"one or more of {', '.join(known)}; all if none is given"
    )
    parser.add_argument("--seeds", type=int, default=20, help="repetitions of what is random (default 20)")
    options = parser.parse_args()
    unknown = [name for name in options.cases if name.upper() not in known]
    if unknown:
        parser.error(f"there is no case {', '.join(unknown)}; there are {', '.join(known)}")
    logging.getLogger("crynux_async").setLevel(logging.CRITICAL)
    # What is started in the background of a shell ignores Ctrl-C, and so would every child that a case interrupts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    chosen = [known[name.upper()] for name in options.cases] or list(CASES)
    results = [_run(case, options.seeds) for case in chosen]
    _show(results)
    return 1 if any(result.verdict is Verdict.FAILED for result in results) else 0


def _run(case: Case, seeds: int) -> Result:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix=f"scorecard-{case.name}-") as folder:
        try:
            verdict, detail = Verdict.PASSED, case.run(Context(seeds=seeds, folder=Path(folder)))
        except SkippedError as reason:
            verdict, detail = Verdict.SKIPPED, str(reason)
        except Exception as error:
            verdict, detail = Verdict.FAILED, f"{type(error).__name__}: {error}"
            traceback.print_exc()
    seconds = time.perf_counter() - began
    print(f"{case.name:>4} {verdict} after {seconds:.1f} s", file=sys.stderr)
    return Result(name=case.name, fault=case.fault, verdict=verdict, detail=detail, seconds=seconds)


def _show(results: list[Result]) -> None:
    rows = [(r.name, r.verdict.value, round(r.seconds, 1), r.fault, r.detail) for r in results]
    show_table("Fault scorecard", ("case", "verdict", "s", "fault", "seen"), rows)
    count = {verdict.value: sum(r.verdict is verdict for r in results) for verdict in Verdict}
    print(f"\n  {count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    finish("scorecard", {**count, "cases": [attrs.asdict(r) | {"seconds": round(r.seconds, 2)} for r in results]})


if __name__ == "__main__":
    sys.exit(main())
