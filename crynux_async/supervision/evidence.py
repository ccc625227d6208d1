"""What the archives of tasks tell of whose they are, where a bridge's numbers leave several jobs or several tasks.

Two creates that are lost together share the numbers between which their tasks lie. A finished archive has the rank, the
modules and the steps of one training: where these are not what a job has asked for, the task is not that job's. It is
evidence for people, who decide: equal trainings look alike, and a model under a wrong name is worse than none.
"""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from crynux_async.archive.health import HealthCode
from crynux_async.archive.lora_archive import LoraArchive
from crynux_async.backends.base import Backend, Finding, Task, Verdict
from crynux_async.errors import ArchiveError, BackendError
from crynux_async.threads import clean_up, in_thread, to_the_end
from crynux_async.training.config import FineTuneConfig

_CHUNK_BYTES = 1 << 20

_TOLD_APART_BY = frozenset(
    {
        HealthCode.RANK,
        HealthCode.MODULES_MISSING,
        HealthCode.MODULES_EXTRA,
        HealthCode.STEPS_SHORT,
        HealthCode.FAMILY,
    }
)

_log = logging.getLogger("crynux_async.supervision.evidence")


@attrs.frozen(kw_only=True)
class _Evidence:
    """What the archive of a task says of one job.

    Attributes:
        text: In words.
        fits: Whether it may be the job's; None where that could not be told.
    """

    text: str
    fits: bool | None = None


@attrs.define
class _Allowance:
    """How many bytes may still be fetched, of how many."""

    whole: int
    left: int


async def with_evidence(
    backend: Backend, findings: Sequence[Finding], configs: Mapping[str, FineTuneConfig | None], *, at_most_bytes: int
) -> list[Finding]:
    """Return findings that say of each task that may be a job's whether its archive is what the job has asked for.

    Args:
        backend: Has the archives; each is fetched once, into a folder that goes again.
        findings: What was found.
        configs: What each job has asked for, by its name.
        at_most_bytes: So many bytes of archives are fetched at most, >= 0; what is left out is said.
    """
    allowance = _Allowance(at_most_bytes, at_most_bytes)
    unclear = [finding for finding in findings if finding.verdict is Verdict.AMBIGUOUS and finding.candidates]
    told: dict[str, dict[str, _Evidence]] = {finding.job_id: {} for finding in unclear}
    with tempfile.TemporaryDirectory(prefix="crynux-evidence-") as folder:
        for task_id in sorted({task_id for finding in unclear for task_id in finding.candidates}):
            jobs = [finding.job_id for finding in unclear if task_id in finding.candidates]
            path = await _fetched(backend, task_id, Path(folder), allowance)
            for job_id in jobs:
                told[job_id][task_id] = await _said(path, configs.get(job_id))
    return [_completed(finding, told.get(finding.job_id, {})) for finding in findings]


async def _fetched(backend: Backend, task_id: str, folder: Path, allowance: _Allowance) -> Path | _Evidence:
    """Return the archive of a task on disk, or what is to be said where it is not there."""
    if allowance.left <= 0:
        return _too_large(allowance)
    path = folder / "candidate.zip"
    try:
        async with backend.open_result(Task(task_id=task_id)) as result:
            total = result.validator.total_bytes
            # What is announced as too large costs nothing; what announces nothing is read as far as it may be.
            if total is not None and total > allowance.left:
                return _too_large(allowance, total)
            file = await to_the_end(in_thread(path.open, "wb"))
            try:
                async for chunk in result.chunks(_CHUNK_BYTES):
                    allowance.left -= len(chunk)
                    if allowance.left < 0:
                        return _too_large(allowance)
                    await to_the_end(in_thread(file.write, chunk))
            finally:
                await clean_up(file.close)
    except (BackendError, OSError) as error:
        _log.info("the archive of task %s is no evidence: %s", task_id, error)
        return _Evidence(text="cannot be compared")
    return path


def _too_large(allowance: _Allowance, total: int | None = None) -> _Evidence:
    size = "" if total is None else f" of {total:,} bytes"
    return _Evidence(text=f"{size} was not fetched: evidence_bytes={allowance.whole} bounds that".strip())


async def _said(path: Path | _Evidence, config: FineTuneConfig | None) -> _Evidence:
    """Return what an archive says of whether a job's task has made it."""
    if isinstance(path, _Evidence):
        return path
    if config is None:
        return _Evidence(text="cannot be compared")
    try:
        health = await to_the_end(in_thread(lambda: LoraArchive.open(path).health(config)))
    except (ArchiveError, OSError) as error:
        return _Evidence(text=f"cannot be compared ({error})")
    others = [problem.message for problem in health.problems if problem.code in _TOLD_APART_BY]
    if others:
        return _Evidence(fits=False, text=f"is not what this job has asked for ({'; '.join(others)})")
    return _Evidence(fits=True, text="has the rank, the modules and the steps of this job")


def _completed(finding: Finding, told: Mapping[str, _Evidence]) -> Finding:
    """Return a finding that says what the archives of its candidates tell, and what can be done about it."""
    if not told:
        return finding
    said = "; ".join(f"the archive of task {task_id} {evidence.text}" for task_id, evidence in told.items())
    fitting = [task_id for task_id, evidence in told.items() if evidence.fits]
    advice = ""
    # Only where every other one is ruled out: what could not be compared may be the one.
    if len(fitting) == 1 and all(evidence.fits is not None for evidence in told.values()):
        advice = f". Where no other program uses this key, {fitting[0]} is its task: attach it and abandon this job"
    return attrs.evolve(finding, explanation=f"{finding.explanation}; {said}{advice}")
