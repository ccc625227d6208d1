"""What the nodes do with a job: how many rounds it takes, how many steps each trains, and when it ends.

Nothing runs. A job is its arguments and its age in seconds of training time, and everything else follows from those.

Source: stable-diffusion-task sd_task/task_runner/finetune_task/finetune_lora.py (the training loop), crynux-bridge
tasks/process_sd_ft_tasks.go (the chain of rounds, the fourth failure).
"""

import math
import re
from bisect import bisect_right
from collections.abc import Callable
from typing import Literal

import attrs

from crynux_async.emulator.nodes.task_args import TargetModules, TaskArgs
from crynux_async.emulator.nodes.unet import Unet

Status = Literal["running", "success", "failed"]
Fate = Literal["trains", "fails", "silent", "stalls", "never_finishes"]

_FAILURES = 4
_ENDING = re.compile(r"(.*)/(fail|stall|nofinish|untrained|nan|big-[0-9]{1,6})", re.DOTALL)
_MOST_COURSES = 4096


@attrs.frozen(kw_only=True)
class Wishes:
    """What the ending of a model name asks of the emulated network.

    Attributes:
        fate: What becomes of the job, as far as its name decides.
        untrained: Whether all ``up`` tensors are zero.
        nan: Whether all weights are NaN.
        extra_mebibytes: How much larger the archive is.
    """

    fate: Fate = "trains"
    untrained: bool = False
    nan: bool = False
    extra_mebibytes: int = 0


def wishes(model_name: str) -> Wishes:
    """Return what the endings of a model name ask for; several may follow each other."""
    found: dict[str, object] = {}
    while (match := _ENDING.fullmatch(model_name)) is not None:
        model_name, ending = match[1], match[2]
        if ending.startswith("big-"):
            found["extra_mebibytes"] = int(ending.removeprefix("big-"))
        elif ending in ("untrained", "nan"):
            found[ending] = True
        else:
            found["fate"] = {"fail": "fails", "stall": "stalls", "nofinish": "never_finishes"}[ending]
    return Wishes(**found)  # type: ignore[arg-type]


@attrs.frozen(kw_only=True)
class Progress:
    """How far a job is.

    Attributes:
        status: The bridge's word.
        rounds_done: Rounds that delivered a checkpoint.
        failed_count: Rounds that ended without one.
        global_step: Optimizer steps in the last checkpoint.
        ended: Seconds of training time at which the job ended, or None.
    """

    status: Status
    rounds_done: int = 0
    failed_count: int = 0
    global_step: int = 0
    ended: float | None = None


@attrs.frozen(kw_only=True)
class Round:
    """One round of a job, or one try of a round.

    Attributes:
        began: When it began, in seconds of training time after the create.
        ended: When it ended, or None while it is going on.
        fate: "trains" when it delivers a checkpoint, "fails" when the node refuses the arguments, "silent" when the
            node says nothing until the time is up.
    """

    began: float
    ended: float | None
    fate: Literal["trains", "fails", "silent"]


def round_end(*, images: int, args: TaskArgs, start: int) -> int:
    """Return the global step at which a round stops.

    A round passes over the data set, one epoch after another. After ``num_train_steps`` the loop is left, but only the
    inner one: each epoch that remains still runs one micro-batch, and with it a step whenever gradients are due.

    Args:
        images: Images in the data set, > 0.
        args: The job's arguments.
        start: The global step at the beginning, >= 0.
    """
    batches = math.ceil(images / args.batch_size)
    per_epoch = math.ceil(batches / args.gradient_accumulation_steps)
    num_steps = args.num_train_steps or args.num_train_epochs * per_epoch
    max_steps = _max_steps(images, args)
    epochs = math.ceil(max_steps / per_epoch) - start // per_epoch
    wanted = max(1, min(num_steps, max_steps - start))
    full = (wanted - 1) // per_epoch
    if full >= epochs:
        return start + max(0, epochs) * per_epoch
    remaining = epochs - full - 1
    extra = remaining if batches == 1 else remaining // args.gradient_accumulation_steps
    return start + wanted + extra


def _max_steps(images: int, args: TaskArgs) -> int:
    per_epoch = math.ceil(math.ceil(images / args.batch_size) / args.gradient_accumulation_steps)
    return args.max_train_steps or args.max_train_epochs * per_epoch


class Chain:
    """The rounds of one kind of job, worked out as far as somebody asked.

    Args:
        next_step: Takes the global step at the start of a round and returns the one at its end.
        finish: The global step from which on a checkpoint is the last.
        duration: Takes the steps of a round and returns its seconds of training time.
    """

    __slots__ = ("_duration", "_ends", "_finish", "_next_step", "_steps")

    def __init__(self, next_step: Callable[[int], int], finish: int, duration: Callable[[int], float]) -> None:
        self._next_step = next_step
        self._finish = finish
        self._duration = duration
        self._ends: list[float] = []
        self._steps: list[int] = []

    def at(self, age: float) -> Progress:
        """Return the progress after ``age`` seconds of training time."""
        while not self._complete and (not self._ends or self._ends[-1] <= age):
            self._extend()
        done = bisect_right(self._ends, age)
        step = self._steps[done - 1] if done else 0
        if self._complete and done == len(self._ends):
            return Progress(status="success", rounds_done=done, global_step=step, ended=self._ends[-1])
        return Progress(status="running", rounds_done=done, global_step=step)

    def ends(self, age: float) -> list[float]:
        """Return when the rounds that are over after ``age`` seconds ended."""
        return self._ends[: self.at(age).rounds_done]

    @property
    def _complete(self) -> bool:
        return bool(self._steps) and self._steps[-1] >= self._finish

    def _extend(self) -> None:
        start = self._steps[-1] if self._steps else 0
        step = self._next_step(start)
        self._ends.append((self._ends[-1] if self._ends else 0.0) + self._duration(step - start))
        self._steps.append(step)


@attrs.frozen(kw_only=True)
class Course:
    """What is going to happen to one job.

    Attributes:
        fate: The kind of course.
        round_duration: Seconds of training time of a round, unless the chain tells.
        round_steps: Steps of a round of a job that never finishes.
        chain: The rounds of a job that trains.
    """

    fate: Fate
    round_duration: float = 0.0
    round_steps: int = 0
    chain: Chain | None = None

    def at(self, age: float) -> Progress:
        """Return the progress after ``age`` seconds of training time, >= 0."""
        if self.chain is not None:
            return self.chain.at(age)
        if self.fate in ("fails", "silent"):
            return _failing(age, self.round_duration)
        rounds = int(age // self.round_duration) if self.fate == "never_finishes" else 0
        return Progress(status="running", rounds_done=rounds, global_step=rounds * self.round_steps)

    def rounds(self, age: float) -> list[Round]:
        """Return the rounds and tries that have begun after ``age`` seconds of training time, in order."""
        progress = self.at(age)
        count = progress.rounds_done + progress.failed_count
        ends = [self.round_duration * number for number in range(1, count + 1)]
        if self.chain is not None:
            ends = self.chain.ends(age)
        fate: Literal["trains", "fails", "silent"] = "trains"
        if self.fate in ("fails", "silent"):
            fate = "fails" if self.fate == "fails" else "silent"
        over = [Round(began=began, ended=ended, fate=fate) for began, ended in zip([0.0, *ends], ends, strict=False)]
        is_going_on = progress.status == "running"
        return [*over, Round(began=ends[-1] if ends else 0.0, ended=None, fate=fate)] if is_going_on else over


@attrs.define(eq=False, kw_only=True)
class Network:
    """The nodes, all alike.

    Attributes:
        images: Images in every data set, > 0.
        round_overhead: Seconds of training time that a round takes besides its steps, >= 0.
        seconds_per_step: Seconds of training time of one optimizer step, >= 0.
        unet: The model that is trained.
    """

    images: int
    round_overhead: float
    seconds_per_step: float
    unet: Unet
    _courses: dict[tuple[object, ...], Course] = attrs.field(factory=dict, init=False, repr=False)
    _targets: dict[TargetModules, bool] = attrs.field(factory=dict, init=False, repr=False)

    def course(self, args: TaskArgs) -> Course:
        """Return what is going to happen to a job; equal for jobs that differ in what does not matter to it."""
        fate = self._fate(args)
        numbers = (args.batch_size, args.gradient_accumulation_steps, args.num_train_epochs, args.num_train_steps)
        key = (fate, *numbers, args.max_train_epochs, args.max_train_steps, args.timeout)
        course = self._courses.get(key)
        if course is None:
            if len(self._courses) >= _MOST_COURSES:
                self._courses.clear()
            course = self._courses[key] = self._plan(fate, args)
        return course

    def _fate(self, args: TaskArgs) -> Fate:
        fate = wishes(args.model_name).fate
        return "silent" if fate == "trains" and not self._trainable(args) else fate

    def _trainable(self, args: TaskArgs) -> bool:
        has_data = bool(args.dataset_url or args.dataset_name)
        return has_data and args.init_lora_weights != "loftq" and self._has_targets(args.target_modules)

    def _has_targets(self, target_modules: TargetModules) -> bool:
        known = self._targets.get(target_modules)
        if known is None:
            known = self._targets[target_modules] = bool(self.unet.targeted(target_modules))
        return known

    def _plan(self, fate: Fate, args: TaskArgs) -> Course:
        match fate:
            case "trains":
                return Course(fate=fate, chain=self._chain(args))
            case "fails":
                return Course(fate=fate, round_duration=self.round_overhead)
            case "silent":
                return Course(fate=fate, round_duration=float(args.timeout))
        steps = round_end(images=self.images, args=args, start=0)
        # Rounds without end must have a duration.
        return Course(fate=fate, round_duration=max(1.0, self._duration(steps)), round_steps=steps)

    def _chain(self, args: TaskArgs) -> Chain:
        return Chain(
            lambda start: round_end(images=self.images, args=args, start=start),
            _max_steps(self.images, args),
            self._duration,
        )

    def _duration(self, steps: int) -> float:
        return self.round_overhead + steps * self.seconds_per_step


def _failing(age: float, duration: float) -> Progress:
    ended = _FAILURES * duration
    if age >= ended:
        return Progress(status="failed", failed_count=_FAILURES, ended=ended)
    return Progress(status="running", failed_count=int(age // duration))
