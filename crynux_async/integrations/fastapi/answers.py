"""What is told of jobs: models that say it in the schema, too."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from crynux_async.events import Event
from crynux_async.integrations.fastapi.configs import FineTuneConfigBody
from crynux_async.integrations.fastapi.problems import told
from crynux_async.job import Job
from crynux_async.ledgers.rows import shown_config
from crynux_async.states import JobState


class ErrorAnswer(BaseModel):
    """Why a job ended badly, or why it was not sent."""

    kind: str = Field(examples=["failed"])
    detail: str = Field(examples=["The training service gave up on it."])


class JobAnswer(BaseModel):
    """A job, as whoever may see it is shown it."""

    job_id: str = Field(examples=["j0f4c1d0e9b8a7654321f0e1d2c3b4a59"])
    task_id: str | None = Field(description="The training service's name of its task, or null before it is accepted.")
    state: JobState
    label: str
    group: str
    tags: dict[str, str]
    idempotency_key: str | None
    tries: int = Field(ge=1)
    planned_at: datetime
    submitted_at: datetime | None
    ended_at: datetime | None
    expected_at: datetime | None = Field(description="When it will be sent as far as is known, or null.")
    progress: str | None = Field(description="How far its task is, in the service's own word, or null.")
    error: ErrorAnswer | None
    reason: str = Field(description='Why it ended without a model as far as the service tells, or "".')
    total_bytes: int | None = Field(description="Size of its archive, once it is here.")
    config: FineTuneConfigBody | None = Field(description="What is trained; queries of addresses are masked.")
    digest: str = Field(description="Equal for configs that train the same.")

    @classmethod
    def of(cls, job: Job) -> Self:
        """Return what is told of a job."""
        return cls(
            job_id=job.job_id,
            task_id=job.task_id,
            state=job.state,
            label=job.label,
            group=job.group,
            tags=dict(job.tags),
            idempotency_key=job.idempotency_key,
            tries=job.tries,
            planned_at=job.planned_at,
            submitted_at=job.submitted_at,
            ended_at=job.ended_at,
            expected_at=job.eta,
            progress=job.progress,
            error=None if job.error is None else ErrorAnswer(**told(job.error)),
            reason=job.reason or "",
            total_bytes=job.total_bytes,
            config=None if job.config is None else FineTuneConfigBody(shown_config(job.config) or {}),
            digest="" if job.config is None else job.config.digest(),
        )


class JobPage(BaseModel):
    """Some jobs, the newest first."""

    jobs: list[JobAnswer]
    next_cursor: str | None = Field(description="Give it as `cursor` for those that are older; null at the end.")


class EventAnswer(BaseModel):
    """Something that happened to a job. Further members depend on ``kind``."""

    model_config = ConfigDict(extra="allow")

    kind: str = Field(examples=["JobStateChanged"])
    job_id: str
    task_id: str | None
    number: int = Field(description="Counts from 1 for each job, without gaps.")
    at: datetime

    @classmethod
    def of(cls, event: Event) -> Self:
        """Return what is told of an event."""
        return cls.model_validate(event.to_dict(public=True))


class AdviceAnswer(BaseModel):
    """One thing to know about a config before it is paid for."""

    code: str
    severity: str = Field(examples=["warning"])
    field: str | None
    title: str
    message: str
    action: str


class CheckAnswer(BaseModel):
    """What would become of a config; nothing was sent and nothing was fetched."""

    advice: list[AdviceAnswer]
    price_wei: str | None = Field(description="What one try may cost at most, in wei (10**-18 CNX), or null.")
    digest: str = Field(description="Equal for configs that train the same.")
    config: FineTuneConfigBody = Field(description="Every field, with what was left out; the seed is drawn anew.")


class AbandonAnswer(BaseModel):
    """A job that was given up."""

    job: JobAnswer
    message: str
