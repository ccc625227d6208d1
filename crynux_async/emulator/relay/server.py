"""``RelayEmulator``: a Crynux relay on this machine, put together from its parts and steered from Python."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import attrs

from crynux_async.emulator.http import checks
from crynux_async.emulator.http.listener import Listener
from crynux_async.emulator.http.server import EmulatedServer
from crynux_async.emulator.nodes.node import Network
from crynux_async.emulator.nodes.unet import SIZES
from crynux_async.emulator.relay.automatic import Conduct
from crynux_async.emulator.relay.control import RelayControl, chain
from crynux_async.emulator.relay.journal import JournalEntry
from crynux_async.emulator.relay.routes import OPERATIONS, Operation
from crynux_async.emulator.relay.seeds import Sampling
from crynux_async.emulator.relay.serving import FaultyRelay
from crynux_async.emulator.relay.tasks import Task
from crynux_async.emulator.relay.world import World, WorldOptions

CNX = 10**18
"""Wei of one CNX."""

_BODY_LIMIT = 32 * 1024 * 1024


@attrs.frozen(kw_only=True)
class _Options:
    """What an emulator is started with, checked; ``RelayEmulator`` says what it means."""

    speed: float = attrs.field(validator=checks.number(low=0))
    nodes: int = attrs.field(validator=checks.integer(low=0))
    images: int = attrs.field(validator=checks.integer(low=1))
    round_overhead: float = attrs.field(validator=checks.number(low=0))
    seconds_per_step: float = attrs.field(validator=checks.number(low=0))
    model_seconds: float = attrs.field(validator=checks.number(low=0))
    unet: Literal["sd15", "tiny"] = attrs.field(validator=checks.one_of(*SIZES))
    threshold: int = attrs.field(validator=checks.integer(low=0))
    whitelist: Collection[str] | None = attrs.field(validator=attrs.validators.optional(checks.texts()))
    body_limit_bytes: int = attrs.field(validator=checks.integer(low=1))
    indent: bool = attrs.field(validator=checks.flag())
    skew: float = attrs.field(validator=checks.number(low=-float(2**31)))
    sampling: Sampling = attrs.field(validator=checks.one_of(*get_args(Sampling)))
    match_interval: float = attrs.field(validator=checks.number(low=0))
    chance: int | None = attrs.field(validator=attrs.validators.optional(checks.integer()))
    durable: bool = attrs.field(validator=checks.flag())
    request_log: int = attrs.field(validator=checks.integer(low=0))
    archive_limit_bytes: int = attrs.field(validator=checks.integer(low=0))

    def __attrs_post_init__(self) -> None:
        for name in ("speed", "match_interval"):
            if not getattr(self, name):
                raise ValueError(f"{name}: must be more than 0")

    def world(self) -> WorldOptions:
        """Return what the relay behind the sockets is like."""
        network = Network(
            images=self.images,
            round_overhead=self.round_overhead,
            seconds_per_step=self.seconds_per_step,
            unet=SIZES[self.unet],
        )
        return WorldOptions(
            speed=self.speed,
            nodes=self.nodes,
            network=network,
            model_seconds=self.model_seconds,
            threshold=self.threshold,
            whitelist=self.whitelist,
            body_limit_bytes=self.body_limit_bytes,
            skew=self.skew,
            sampling=self.sampling,
            match_interval=self.match_interval,
            chance=self.chance,
            durable=self.durable,
            archive_limit_bytes=self.archive_limit_bytes,
        )


class RelayEmulator(EmulatedServer[Operation]):
    """A relay on this machine, with real signatures and proofs, and nodes that only pretend to train.

    All times follow the running loop's clock, so that it works on virtual time as well. Nodes are steered by the end of
    the model's name (see ``nodes.node.wishes``) and by ``order``; everything else by the other methods, or by the
    control plane under ``/_emulator/``.

    Args:
        host: The address to listen on.
        port: The port, or 0 for a free one.
        control_port: A port for ``POST /ctl`` (see ``relay.control.chain``), 0 for a free one, None for no such port.
        speed: Seconds of training time that pass in one second, > 0; the relay's own deadlines are not sped up.
        folder: Where everything is kept, and found again; None for a folder that goes with the emulator.
        nodes: How many nodes work by themselves; with 0 only nodes that join by calls do.
        images: Images in every data set, >= 1.
        round_overhead: Seconds of training time that a task takes besides its steps, >= 0.
        seconds_per_step: Seconds of training time of an optimizer step, >= 0.
        model_seconds: Seconds of training time until the nodes have a model that nobody asked for before, >= 0.
        unet: The size of the model: "tiny" has the same tensors as "sd15", and archives of half a megabyte.
        threshold: Distance of two image hashes from which on results differ; with 0, the template's, none agree.
        whitelist: Addresses that may create tasks; None for all.
        body_limit_bytes: The largest body that the relay takes, from nodes as well.
        indent: Whether JSON is indented, as with the template's configuration.
        skew: Seconds by which the relay's clock is ahead of this machine's.
        sampling: Which tasks of wallets that the emulator made or knows are validated by a group: "random" for one in
            a hundred, "always", "never". Tasks of other wallets are left to chance.
        match_interval: Seconds between two rounds in which tasks are given to nodes, > 0.
        chance: Where chance starts from; None for another course each time.
        durable: Whether what must not be forgotten is forced to the disk at each request, with a ``folder``.
        request_log: How many requests are remembered.
        archive_limit_bytes: How much of the archives is kept on disk; more is made again when asked for.
        control_token: What the control plane wants in the header ``X-Emulator-Token``. None means that nothing is
            wanted on an address of this machine only, and that one is drawn on any other.

    Raises:
        ValueError: An option makes no sense.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        control_port: int | None = None,
        speed: float = 1.0,
        folder: Path | str | None = None,
        nodes: int = 3,
        images: int = 8,
        round_overhead: float = 20.0,
        seconds_per_step: float = 1.0,
        model_seconds: float = 0.0,
        unet: Literal["sd15", "tiny"] = "sd15",
        threshold: int = 5,
        whitelist: Collection[str] | None = None,
        body_limit_bytes: int = _BODY_LIMIT,
        indent: bool = False,
        skew: float = 0.0,
        sampling: Sampling = "random",
        match_interval: float = 2.0,
        chance: int | None = None,
        durable: bool = True,
        request_log: int = 100_000,
        archive_limit_bytes: int = 2 * 1024**3,
        control_token: str | None = None,
    ) -> None:
        self._options = _Options(
            speed=speed,
            nodes=nodes,
            images=images,
            round_overhead=round_overhead,
            seconds_per_step=seconds_per_step,
            model_seconds=model_seconds,
            unet=unet,
            threshold=threshold,
            whitelist=whitelist,
            body_limit_bytes=body_limit_bytes,
            indent=indent,
            skew=skew,
            sampling=sampling,
            match_interval=match_interval,
            chance=chance,
            durable=durable,
            request_log=request_log,
            archive_limit_bytes=archive_limit_bytes,
        )
        super().__init__(
            OPERATIONS, host=host, port=port, folder=folder, request_log=request_log, control_token=control_token
        )
        self._chain_port = control_port
        self._chain: Listener | None = None
        self._world: World | None = None

    async def start(self) -> None:
        """Open the folder and listen.

        Raises:
            OSError: If the folder cannot be used or an address is taken.
        """
        folder = self._open_folder()
        world = self._world = World(self._options.world(), folder, self._clock, is_kept=not self._is_temporary)
        control = RelayControl(world, self._steering(world.restart, world.journal))
        self._control = self._plane(control.calls())
        self._served = FaultyRelay(
            service=world.service,
            faults=self._faults,
            clock=self._clock,
            body_limit=self._options.body_limit_bytes,
            indent=self._options.indent,
        )
        try:
            await self._listener.open()
            if self._chain_port is not None:
                listener = Listener(partial(chain, world), host=self._listener.host, port=self._chain_port)
                await listener.open()
                self._chain = listener
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening, cut all connections and forget a temporary folder."""
        if self._world is None:
            return
        world, self._world = self._world, None
        if self._chain is not None:
            await self._chain.close()
            self._chain = None
        await self._listener.close()
        await world.close()
        self._drop_folder()

    @property
    def control_url(self) -> str | None:
        """The base URL of the port for ``POST /ctl``, or None."""
        return None if self._chain is None else self._chain.url

    @property
    def tasks(self) -> Mapping[str, Task]:
        """Every task, by its commitment in lower case."""
        return self._running.relay().tasks

    @property
    def journal(self) -> Sequence[JournalEntry]:
        """Every task in order of creation, as it is now."""
        return self._running.journal()

    @property
    def sampling(self) -> Sampling:
        """Which tasks of known wallets are validated by a group; may be set."""
        return self._running.sampling

    @sampling.setter
    def sampling(self, sampling: Sampling) -> None:
        self._running.sampling = sampling

    @property
    def skew(self) -> float:
        """Seconds by which the relay's clock is ahead; may be set."""
        return self._running.skew

    @skew.setter
    def skew(self, skew: float) -> None:
        self._running.skew = skew

    def new_wallet(self, *, balance: int = 1000 * CNX) -> str:
        """Make a wallet with money on its account.

        Args:
            balance: Wei.

        Returns:
            Its secret key, 64 hexadecimal digits with 0x.
        """
        return self._running.new_wallet(balance)[0]

    def know_wallet(self, secret_key: str) -> str:
        """Remember a wallet that was made elsewhere, so that ``sampling`` holds for it, and return its address.

        Raises:
            ValueError: If it is no secret key.
        """
        return self._running.know_wallet(secret_key)

    def fund(self, address: str, amount: int) -> None:
        """Put ``amount`` wei on an account."""
        self._running.credit(address, amount)

    def balance(self, address: str) -> int:
        """Return what an account shows, in wei."""
        # Brought up to now first: nothing happens in the relay before somebody looks.
        return self._running.relay().accounts.balance(address)

    def put_seed(self, seed: bytes) -> None:
        """Let 32 bytes be the seed of the next task, behind others that were put."""
        self._running.put_seed(seed)

    def order(self, *conducts: Conduct) -> None:
        """Let the next tasks that automatic nodes start be treated like this, one after the other."""
        self._running.automatic.order(conducts)

    def restart(self) -> None:
        """Do what a restart of the relay does: connections are cut; what was answered 200 stays."""
        # Before the connections are cut: who asks again must meet the relay as it is after its restart.
        self._running.restart()
        self._listener.cut_connections()

    @property
    def _running(self) -> World:
        if self._world is None:
            raise RuntimeError("the emulator is not running: use 'async with RelayEmulator(...)' or await start()")
        return self._world
