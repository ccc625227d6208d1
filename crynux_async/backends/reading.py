"""A service of which a session only reads what the ledger has: nothing is asked of it, and no credential is needed."""

from contextlib import AbstractAsyncContextManager
from typing import Final

import attrs

from crynux_async.backends.base import CreatedTask, Habits, Look, Order, ResultStream, Task, Validator
from crynux_async.backends.credentials import is_wallet
from crynux_async.backends.relay.arguments import RELAY_FACTS
from crynux_async.errors import UsageError
from crynux_async.training.config import EffectiveConfig, FineTuneConfig
from crynux_async.training.lengths import stall_seconds
from crynux_async.training.service import BRIDGE_FACTS, ServiceFacts

_HABITS: Final = Habits()


def facts_behind(key_id: str) -> ServiceFacts:
    """Return what a service does with configs, as a credential tells that a job was created with there."""
    return RELAY_FACTS if is_wallet(key_id) else BRIDGE_FACTS


@attrs.frozen(kw_only=True)
class ReadBackend:
    """Stands for a service in a session with ``follow=False``.

    Attributes:
        name: What the ledger calls it, whatever it is.
        facts: What it does with configs.
    """

    name: str
    facts: ServiceFacts

    @property
    def key_id(self) -> str:
        """No credential."""
        return ""

    @property
    def habits(self) -> Habits:
        """Those of any service: nothing is held and nothing is named here."""
        return _HABITS

    @property
    def creates_are_repeatable(self) -> bool:
        """Never asked: nothing is created."""
        return False

    def normal_task_id(self, given: str | int) -> str:
        """Return a task id as it is given."""
        return str(given)

    def effective(self, config: FineTuneConfig) -> EffectiveConfig:
        """Return what the service and its nodes make of a config."""
        return config.effective(mapping=self.facts.mapping)

    def stall_after(self, config: FineTuneConfig) -> float:
        """Return after how many seconds a healthy task of a config has certainly ended."""
        return stall_seconds(config, self.facts)

    def intend(self, order: Order) -> str:
        """Refuse.

        Raises:
            UsageError: Always.
        """
        raise self._refusal()

    async def create(self, payload: str) -> CreatedTask:
        """Refuse.

        Raises:
            UsageError: Always.
        """
        raise self._refusal()

    async def look(self, task: Task) -> Look:
        """Refuse.

        Raises:
            UsageError: Always.
        """
        raise self._refusal()

    def open_result(
        self, task: Task, *, start: int = 0, validator: Validator | None = None
    ) -> AbstractAsyncContextManager[ResultStream]:
        """Refuse.

        Raises:
            UsageError: Always.
        """
        raise self._refusal()

    async def close(self) -> None:
        """Do nothing: there is no connection."""

    def _refusal(self) -> UsageError:
        return UsageError(f"this session only reads what the ledger has of {self.name}; open one at the service itself")
