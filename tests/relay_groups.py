"""The scenarios of the recordings in which a task was selected, played against an emulated relay."""

import asyncio
from collections.abc import Sequence
from typing import Any

from tests.relay_lab import SCORE, Ids, Lab, Node, create_fields

SECOND, THIRD = "0x" + "0f" * 16, "0x" + "f0" * 16


class Group:
    """Three tasks of one selected create, each with a node of its own."""

    def __init__(self, lab: Lab, *, names: str | None = None) -> None:
        self.lab = lab
        self.members: list[Ids] = []
        self.nodes: list[Node] = []
        self.seed = ""
        self._names = names

    @property
    def commitments(self) -> list[str]:
        return [ids.commitment for ids in self.members]

    async def start(self, *timeouts: int, first_node: int = 10) -> "Group":
        """Create the three, and wait until all have nodes."""
        first = Ids()
        for index, timeout in enumerate(timeouts):
            ids = first if index == 0 else first.sibling()
            await self.create(ids, name=self._names if index else None, timeout=timeout)
        nodes = await self.lab.nodes(first_node)
        self.nodes = [await self.lab.holder(nodes, ids) for ids in self.members]
        return self

    async def create(self, ids: Ids, *, name: str | None = None, **changes: Any) -> None:
        """Create a member; the first one's seed is the group's."""
        self.lab.relay.sampling = "random" if self.members else "always"
        answer = await self.lab.create(ids, fields=create_fields(ids, **changes), name=name)
        self.seed = self.seed or answer.data["sampling_seed"]
        self.members.append(ids)

    async def finish(self, scores: Sequence[str | None], errors: Sequence[int] = ()) -> None:
        """Let nodes report, one after the other; None reports nothing."""
        for index, (ids, node, score) in enumerate(zip(self.members, self.nodes, scores, strict=True)):
            if index in errors:
                await node.report_error(ids)
            elif score is not None:
                await node.score(ids, score)
            await asyncio.sleep(1.1)

    async def validate(self, name: str | None, commitments: Sequence[str] | None = None) -> int | None:
        commitments = self.commitments if commitments is None else commitments
        answer = await self.lab.validate(self.members[0].task_id, commitments, self.seed, name=name)
        return answer.status

    async def states(self) -> list[tuple[int, int]]:
        return [await self.lab.status(ids) for ids in self.members]

    async def winner(self) -> None:
        """Let the winner upload, and look at what is there then."""
        states = [status for status, _ in await self.states()]
        index = states.index(6)
        await self.nodes[index].upload(self.members[index])
        task = self.members[index].commitment
        await self.lab.look(task, name="winner")
        await self.lab.checkpoint(task, name="winner's checkpoint")
        await self.lab.image(task, 0, name="winner's image")


async def played(
    lab: Lab, scores: Sequence[str], *, errors: Sequence[int] = (), silent: Sequence[int] = (), timeout: int = 600
) -> None:
    """Play one of the recordings' longer scenarios of a group."""
    group = await Group(lab, names="create sibling").start(timeout, timeout, timeout)
    await group.validate("validate group before any score")
    await group.finish([None if index in silent else score for index, score in enumerate(scores)], errors)
    for index in silent:
        await lab.until(group.members[index], 9)
    await group.validate("validate one although selected", group.commitments[:1])
    await group.validate("validate two", group.commitments[:2])
    await group.validate("validate group (reversed order)", group.commitments[::-1])
    for index, task in enumerate(group.commitments):
        await lab.look(task, name=f"get member {index}")
    await group.validate("validate group again")
    for ids, node, (status, _) in zip(group.members, group.nodes, await group.states(), strict=True):
        if status in (6, 7, 10):
            await node.upload(ids)
            await _after_upload(lab, ids.commitment, is_winner=status == 6)


async def _after_upload(lab: Lab, task: str, *, is_winner: bool) -> None:
    if is_winner:
        await lab.look(task, name="get the winner after upload")
        await lab.checkpoint(task, name="winner's checkpoint")
        await lab.image(task, 0, name="winner's image 0")
    else:
        await lab.look(task, name="get another member after upload")
        await lab.checkpoint(task, name="another member's checkpoint")
        await lab.image(task, 0, name="another member's image 0")


async def all_equal(lab: Lab) -> None:
    await played(lab, [SCORE] * 3)


async def one_differs(lab: Lab) -> None:
    await played(lab, [SCORE, SECOND, SCORE])


async def no_majority(lab: Lab) -> None:
    await played(lab, [SCORE, SECOND, THIRD])


async def one_times_out(lab: Lab) -> None:
    await played(lab, [SCORE] * 3, silent=(1,), timeout=14)


async def all_report_errors(lab: Lab) -> None:
    await played(lab, [SCORE] * 3, errors=(0, 1, 2))


async def one_reports_an_error(lab: Lab) -> None:
    await played(lab, [SCORE] * 3, errors=(2,))


async def one_aborted_early(lab: Lab) -> None:
    group = await Group(lab).start(120, 120, 4)
    await group.finish([SCORE, SCORE, None])
    await lab.until(group.members[2], 9)
    await group.validate("validate group")
    await group.winner()


async def two_aborted_early(lab: Lab) -> None:
    group = await Group(lab).start(120, 4, 4)
    await group.finish([SCORE, None, None])
    await lab.until(group.members[2], 9)
    await group.validate("validate group")


async def sibling_cancelled(lab: Lab) -> None:
    first = Ids()
    group = Group(lab)
    for ids, vram in ((first, 24), (first.sibling(), 24), (first.sibling(), 999)):
        await group.create(ids, timeout=120, min_vram=vram)
    nodes = await lab.nodes(10)
    group.nodes = [await lab.holder(nodes, ids) for ids in group.members[:2]]
    await lab.cancel(group.commitments[2], name="cancel member 2 while queued")
    for ids, node in zip(group.members, group.nodes, strict=False):
        await node.score(ids)
        await asyncio.sleep(1.1)
    await group.validate("validate group")
    await group.winner()


async def validated_twice_at_once(lab: Lab) -> None:
    group = await Group(lab).start(120, 120, 120)
    await group.finish([SCORE] * 3)
    answers = await asyncio.gather(group.validate(None), group.validate(None))
    assert sorted(answers) == [200, 500]
    await group.winner()


async def threshold_of_the_template(lab: Lab) -> None:
    group = await Group(lab).start(120, 120, 120)
    await group.finish([SCORE] * 3)
    await group.validate("validate group")
    assert await group.states() == [(9, 3)] * 3
