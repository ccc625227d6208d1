"""What the network is like just before a training is sent: nodes that are there, and nodes that have its model."""

import logging
from collections.abc import Iterator, Sequence

import attrs

from crynux_async.backends.relay import answers, wire
from crynux_async.backends.relay.answers import LoadedModel, NodeNumbers
from crynux_async.backends.relay.arguments import RELAY_FACTS
from crynux_async.backends.relay.client import RelayClient
from crynux_async.clock import monotonic
from crynux_async.errors import BackendError
from crynux_async.wording import counted

_log = logging.getLogger("crynux_async.backends.relay.outlook")

_FRESH = 60.0  # a sweep of a thousand jobs asks once a minute


@attrs.frozen(kw_only=True)
class Network:
    """What the relay tells everybody of its network.

    Attributes:
        models: Base models that nodes have proved to run.
        nodes: How many nodes there are.
        waiting: Tasks that wait for a node.
    """

    models: Sequence[LoadedModel]
    nodes: NodeNumbers
    waiting: int

    def surprises(self, model: str, timeout: float) -> Iterator[str]:
        """Yield what will keep a training waiting, for people.

        Args:
            model: The base model's name.
            timeout: Seconds that the task may take: it may wait for as long, and a while longer.
        """
        has_it = any(known.name == model.lower() and known.in_memory + known.on_disk for known in self.models)
        minutes = (RELAY_FACTS.queue_seconds + timeout) / 60
        if not has_it:
            yield (
                f"no node has {model} so far: nodes fetch it first, which takes minutes to half an hour, and a task "
                f"waits for {minutes:.0f} min at most"
            )
        if not self.nodes.active:
            yield f"the relay counts no active node (yet): a task waits for {minutes:.0f} min at most, and is refunded"
        elif self.waiting > self.nodes.active - self.nodes.busy:
            busy = f"{self.nodes.busy:,} of {counted(self.nodes.active, 'node')}"
            yield f"waiting: {counted(self.waiting, 'task')}; busy: {busy}"


class Outlook:
    """Asks what the network is like, at most once a minute. No trouble with it ever keeps a job from being sent.

    Args:
        client: Asks the relay.
    """

    def __init__(self, client: RelayClient) -> None:
        self._client = client
        self._network: Network | None = None
        self._asked_at = 0.0
        self._told: set[str] = set()

    async def surprises(self, model: str, timeout: float) -> list[str]:
        """Return what will keep a training waiting, for people; nothing where it cannot be asked.

        Args:
            model: The base model's name.
            timeout: Seconds that the task may take.
        """
        if self._network is None or monotonic() - self._asked_at > _FRESH:
            self._asked_at = monotonic()
            try:
                self._network = await self._ask()
            except BackendError as error:
                _log.info("what the network is like cannot be asked: %s", error)
        return list(self._network.surprises(model, timeout)) if self._network is not None else []

    async def warn(self, model: str, timeout: float) -> None:
        """Log what will keep a training waiting, once for each model."""
        if model not in self._told:
            self._told.add(model)
            for sentence in await self.surprises(model, timeout):
                _log.warning("%s", sentence)

    async def _ask(self) -> Network:
        return Network(
            models=await self._client.ask(wire.list_models(), answers.read_loaded_models),
            nodes=await self._client.ask(wire.count_nodes(), answers.read_node_numbers),
            waiting=await self._client.ask(wire.count_queue(), answers.read_count),
        )
