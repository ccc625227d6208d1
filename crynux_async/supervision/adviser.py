"""What is said of a config before it is sent: an error where it cannot work, a warning where it will surprise."""

import asyncio
import logging
from collections.abc import Sequence

import attrs

from crynux_async.errors import ConfigError
from crynux_async.slices import SLICE
from crynux_async.training import advice
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.keeping import KeptConfig, KeptConfigs, but_for, config_of, field_of, kept
from crynux_async.training.patterns import is_quick
from crynux_async.training.service import ServiceFacts

_log = logging.getLogger("crynux_async.supervision.adviser")

_MOST_JUDGED = 64


class Adviser:
    """Checks configs for one service, and warns once of each kind of surprise.

    Args:
        facts: What the service does with configs.
    """

    def __init__(self, facts: ServiceFacts) -> None:
        self._facts = facts
        self._advised: set[tuple[str, str | None]] = set()
        self._judged: dict[tuple[object, ...], list[advice.Advice]] = {}

    def check(self, config: FineTuneConfig, *, force: bool) -> None:
        """Refuse what cannot work, and warn of what will surprise.

        Args:
            config: What to train.
            force: Whether it is refused only where it cannot even be sent.

        Raises:
            ConfigError: It cannot work.
        """
        self._tell(self._judge(kept(config)), force=force)

    def _tell(self, found: list[advice.Advice], *, force: bool) -> None:
        advice.require_workable(found, force=force)
        is_verbose = _log.isEnabledFor(logging.DEBUG)
        for item in found:
            key = (item.code, item.field)
            if item.severity == "note" or key in self._advised:
                if is_verbose:
                    _log.debug("%s", item)
            else:
                self._advised.add(key)
                _log.warning("%s", item)

    async def check_all(self, configs: Sequence[FineTuneConfig], labels: Sequence[str], *, force: bool) -> None:
        """Refuse what cannot work among many configs, all of it at once.

        Args:
            configs: What to train.
            labels: Their labels, for the message.
            force: Whether only what cannot even be sent is refused.

        Raises:
            ConfigError: Some of them cannot work.
        """
        problems = []
        refused = 0
        # What is kept of a config tells whether it was judged, and needs no config to be made anew.
        chosen = configs.kept if isinstance(configs, KeptConfigs) else map(kept, configs)
        for index, (given, label) in enumerate(zip(chosen, labels, strict=True)):
            try:
                self._tell(await self._found(given), force=force)
            except ConfigError as error:
                refused += 1
                place = f"configs[{index}]" + (f" {label!r}" if label else "")
                problems += [attrs.evolve(problem, field=f"{place} {problem.field}") for problem in error.problems]
            if (index + 1) % SLICE == 0:
                await asyncio.sleep(0)
        if problems:
            raise ConfigError(problems, what=f"{refused} of {len(configs)} configs {self._refusal(force)}")

    def _refusal(self, force: bool) -> str:
        """Return what is said of configs that are refused."""
        if force:
            return "cannot be sent, not even with force=True; none is queued"
        forced = "them" if self._facts.takes_rounds else "them where each is one round"
        return f"cannot work; none is queued (force=True sends {forced} anyway)"

    async def _found(self, given: KeptConfig) -> list[advice.Advice]:
        """Return what is to be said; hundreds of expressions that take a process each hold nobody else up."""
        modules = field_of(given, "target_modules")
        if isinstance(modules, str) and not is_quick(modules):
            return await asyncio.to_thread(self._judge, given)
        return self._judge(given)

    def _judge(self, given: KeptConfig) -> list[advice.Advice]:
        """Return what is to be said; configs that differ in their seeds alone are judged once."""
        key = but_for(given, "seed")
        found = self._judged.get(key)
        if found is None:
            found = advice.check(config_of(given), service=self._facts)
            if len(self._judged) >= _MOST_JUDGED:
                self._judged.clear()
            self._judged[key] = found
        return found
