"""Pictures belong to the model after whose archive they are named, and paid ones are kept."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from crynux_async import NotFoundError, Session
from crynux_async.backends.base import Task
from crynux_async.downloads.images import images_beside, put_images
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.sweeps import Sweep, Trial
from crynux_async.sweeps.pictures import pictures_beside, pictures_by, pictures_in
from tests.fake_backend import FakeBackend, make_config
from tests.report.views import picture


class PaintingBackend(FakeBackend):
    """A service that hands out two validation images of a task, once: a relay deletes them with it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def images(self, task: Task) -> Sequence[bytes]:
        self.asked += 1
        if self.asked > 1:
            raise NotFoundError("the task is gone")
        return [picture(1), picture(2)]


class Stored:
    """As much of a trial as has to do with where its archive is."""

    def __init__(self, path: Path | None) -> None:
        self.job = SimpleNamespace(path=path)
        self.number, self.label = 1, "one"


def trial_of(path: Path | None) -> Trial:
    return cast(Trial, Stored(path))


def test_picture_belongs_to_the_archive_whose_name_it_has_most_of(tmp_path: Path) -> None:
    one, ten, one_two, moved = (trial_of(tmp_path / f"{stem}.zip") for stem in ("cats-1", "cats-10", "cats-1-2", "dog"))
    for number, name in enumerate(["cats-1.png", "cats-1-0.JPG", "cats-10-0.png", "cats-1-2-0.png", "cats-1.txt"]):
        (tmp_path / name).write_bytes(b"%d" % number)
    found = pictures_in(tmp_path, [one, ten, one_two, moved, trial_of(None)])
    assert found == {one: [b"1", b"0"], ten: [b"2"], one_two: [b"3"]}


def test_stored_images_of_archives_whose_names_begin_alike_are_told_apart(tmp_path: Path) -> None:
    cat, second = tmp_path / "cat.zip", tmp_path / "cat-2.zip"
    for path in (cat, second):
        put_images(path, [path.name.encode()] * 4)
    assert images_beside(cat) == [tmp_path / f"cat.zip-{number}.png" for number in range(4)]
    first, other = trial_of(cat), trial_of(second)
    assert pictures_beside([first, other]) == {first: [b"cat.zip"] * 4, other: [b"cat-2.zip"] * 4}


def test_pictures_beside_an_archive_that_was_moved_are_none(tmp_path: Path) -> None:
    assert pictures_beside([trial_of(tmp_path / "nowhere" / "a.zip")]) == {}


def test_function_that_raises_costs_its_trial_the_picture_and_nothing_else() -> None:
    def make(trial: Trial) -> Sequence[bytes]:
        raise ZeroDivisionError(trial.label)

    assert pictures_by(make, trial_of(None)) == []
    assert pictures_by(lambda trial: [picture(trial.number)], trial_of(None)) == [picture(1)]


async def test_validation_images_are_kept_beside_the_archive_and_shown_when_the_service_has_them_no_more(
    tmp_path: Path,
) -> None:
    backend, ledger = PaintingBackend(), MemoryLedger()
    sweep = Sweep("cats", make_config(), folder=tmp_path)
    for _ in range(2):
        async with (
            Session(backend=backend, ledger=ledger, api_key="k" * 44, rate_limit=6000) as session,
            sweep.run(session) as running,
        ):
            (trial,) = await running.wait()
        assert trial.state == "done"
    assert backend.asked == 1
    assert pictures_beside([trial]) == {trial: [picture(1), picture(2)]}


async def test_model_without_validation_images_is_whole_all_the_same(tmp_path: Path) -> None:
    backend = PaintingBackend()
    backend.asked = 1
    async with (
        Session(backend=backend, ledger=MemoryLedger(), api_key="k" * 44, rate_limit=6000) as session,
        Sweep("cats", make_config(), folder=tmp_path).run(session) as running,
    ):
        (trial,) = await running.wait()
    assert (trial.state, trial.problem) == ("done", None)
