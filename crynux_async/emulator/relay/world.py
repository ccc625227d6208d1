"""An emulated relay with its money, its nodes and its files, put together and ready to be called.

Source: crynux-relay service/blockchain_processor.go (how deposits arrive).
"""

import hashlib
import random
import secrets
from collections.abc import Collection
from pathlib import Path

import attrs

from crynux_async.emulator.clock import ServerClock
from crynux_async.emulator.nodes.node import Network
from crynux_async.emulator.relay.accounts import SYNC_SECONDS, EventKind
from crynux_async.emulator.relay.agenda import next_tick
from crynux_async.emulator.relay.automatic import AutomaticNodes
from crynux_async.emulator.relay.database import Database, Tables
from crynux_async.emulator.relay.journal import JournalEntry
from crynux_async.emulator.relay.login import Doorman
from crynux_async.emulator.relay.relay import Relay
from crynux_async.emulator.relay.results import Results
from crynux_async.emulator.relay.seeds import Sampling, Seeds
from crynux_async.emulator.relay.service import Service

_BLOCK_SECONDS = 5.0


@attrs.frozen(kw_only=True)
class WorldOptions:
    """What an emulated relay is like; ``RelayEmulator`` says what each means."""

    speed: float
    nodes: int
    network: Network
    model_seconds: float
    threshold: int
    whitelist: Collection[str] | None
    body_limit_bytes: int
    skew: float
    sampling: Sampling
    match_interval: float
    chance: int | None
    durable: bool
    archive_limit_bytes: int


class World:
    """Everything but the sockets.

    Args:
        options: What it is like.
        folder: Where files are kept.
        clock: The clock of the machine.
        is_kept: Whether the folder has what an earlier run has left, and a later one shall find everything again.
    """

    def __init__(self, options: WorldOptions, folder: Path, clock: ServerClock, *, is_kept: bool) -> None:
        self.skew = options.skew
        self._clock = clock
        self._start = self.wall()
        draw = random.Random(options.chance)  # noqa: S311
        self._relay = Relay(
            start=self._start, threshold=options.threshold, match_interval=options.match_interval, draw=draw
        )
        self._seeds = Seeds(draw)
        self._seeds.sampling = options.sampling
        results = Results(folder, options.network, limit_bytes=options.archive_limit_bytes)
        whitelist = options.whitelist
        self.service = Service(
            relay=self._relay,
            results=results,
            seeds=self._seeds,
            # A new secret each time, so that tokens of an earlier run are refused.
            doorman=Doorman(secrets.token_bytes(32)),
            wall=self.wall,
            save=self.save,
            whitelist=None if whitelist is None else frozenset(whitelist),
        )
        self.automatic = AutomaticNodes(
            self._relay,
            results,
            options.network,
            speed=options.speed,
            model_seconds=options.model_seconds,
            body_limit=options.body_limit_bytes,
        )
        self._relay.worker = self.automatic
        self._database = Database(folder, durable=options.durable) if is_kept else None
        if self._database is not None:
            self._take_up(self._database.load())
        self.automatic.start(options.nodes, self._start)
        if options.nodes:
            self._relay.count()

    async def close(self) -> None:
        """Stop making archives, and close the files."""
        await self.service.results.close()
        if self._database is not None:
            self.save()
            self._database.close()

    def save(self) -> None:
        """Write down what has changed."""
        if self._database is not None:
            self._database.save(self._relay)

    def _take_up(self, tables: Tables) -> None:
        # Accounts and nodes before the tasks, which take money and nodes for given.
        self._relay.accounts.take_up(tables.events)
        for node in tables.nodes:
            self._relay.nodes.stakes[node.address] = node.stake
            self._relay.nodes.add(node)
        automatic = {node.address for node in tables.nodes if node.is_automatic}
        for task in tables.tasks:
            if task.uploaded is not None and task.selected_node in automatic:
                self.service.results.make(task)
        self._relay.take_up(tables.tasks, self._start)

    def wall(self) -> float:
        """Return the relay's time, in seconds since 1970."""
        return self._clock.wall() + self.skew

    def relay(self) -> Relay:
        """Return the relay as it is now."""
        # What happens by itself is done when somebody looks, at the time at which it was due.
        self._relay.advance(self.wall())
        return self._relay

    @property
    def sampling(self) -> Sampling:
        """Which tasks of known wallets are validated by a group."""
        return self._seeds.sampling

    @sampling.setter
    def sampling(self, sampling: Sampling) -> None:
        self._seeds.sampling = sampling

    def new_wallet(self, balance: int) -> tuple[str, str]:
        """Make a wallet with money.

        Args:
            balance: Wei.

        Returns:
            Its secret key, hexadecimal with 0x, and its address.
        """
        secret = secrets.token_bytes(32)
        address = self._seeds.know(secret)
        self.credit(address, balance)
        return f"0x{secret.hex()}", address

    def know_wallet(self, secret_key: str) -> str:
        """Remember a wallet, so that its seeds can be chosen, and return its address."""
        return self._seeds.know(bytes.fromhex(secret_key.removeprefix("0x")))

    def put_seed(self, seed: bytes) -> None:
        """Let a seed be the next that is drawn."""
        self._seeds.put_next(seed)

    def credit(self, address: str, amount: int) -> None:
        """Put wei on an account at once."""
        self._deposit(address, amount, self.wall())
        self.save()

    def transfer(self, address: str, amount: int) -> None:
        """Put wei on an account as a transfer on the chain does: when the relay next looks at its blocks."""
        when = next_tick(self.wall(), start=self._start, interval=_BLOCK_SECONDS)
        self._relay.agenda.add(when, lambda now: self._deposit(address, amount, now))

    def stake(self, address: str, amount: int) -> None:
        """Let a node have staked wei on the chain."""
        self._relay.nodes.stakes[address] = amount

    def restart(self) -> None:
        """Forget what the relay keeps in its memory only."""
        self._relay.accounts.forget_memory()

    def journal(self) -> list[JournalEntry]:
        """Return every task in order of creation."""
        return [JournalEntry.of(task) for task in self.relay().tasks.values()]

    def _deposit(self, address: str, amount: int, now: float) -> None:
        events = self._relay.accounts.events
        transaction = f"0x{hashlib.sha256(f'{address} {len(events)}'.encode()).hexdigest()}"
        listed = next_tick(now, start=self._start, interval=SYNC_SECONDS)
        self._relay.accounts.add(EventKind.DEPOSIT, address, amount, transaction, now=now, listed=listed)
