"""``Emulator``: a Crynux bridge on this machine, put together from its parts and steered from Python."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict

import attrs

from crynux_async.emulator.bridge.admin import Admin, Owner
from crynux_async.emulator.bridge.control import BridgeControl
from crynux_async.emulator.bridge.database import Database
from crynux_async.emulator.bridge.jobs import Job
from crynux_async.emulator.bridge.journal import JournalEntry
from crynux_async.emulator.bridge.keys import KeyOptions
from crynux_async.emulator.bridge.routes import OPERATIONS, Operation
from crynux_async.emulator.bridge.service import Bridge
from crynux_async.emulator.bridge.serving import FaultyBridge
from crynux_async.emulator.http import checks
from crynux_async.emulator.http.server import EmulatedServer
from crynux_async.emulator.nodes.archives import ArchiveShelf
from crynux_async.emulator.nodes.node import Network, Progress
from crynux_async.emulator.nodes.unet import SIZES
from crynux_async.emulator.nodes.zip_files import LARGEST

# A session's own: seconds between two looks, and of expected delay.
_POLL_INTERVAL = 5.0
_POLL_DELAY = 2.0
_SHORTEST_POLL_INTERVAL = 0.01


class SessionSettings(TypedDict, total=False):
    """Arguments for ``crynux_async.Session``; ``crynux_async.Settings`` says what they mean."""

    base_url: str
    api_key: str
    rate_limit: float
    min_poll_interval: float
    poll_delay: float
    trust_env: bool


@attrs.frozen(kw_only=True)
class _Options:
    """What an emulator is started with, checked; ``Emulator`` says what it means."""

    port: int = attrs.field(validator=checks.integer(low=0, high=65_535))
    speed: float = attrs.field(validator=checks.number(low=0, above=True))
    rate_limit: int = attrs.field(validator=checks.integer())
    images: int = attrs.field(validator=checks.integer(low=1))
    round_overhead: float = attrs.field(validator=checks.number(low=0))
    seconds_per_step: float = attrs.field(validator=checks.number(low=0))
    retention_days: float = attrs.field(validator=checks.number(low=0))
    unet: Literal["sd15", "tiny"] = attrs.field(validator=checks.one_of(*SIZES))
    durable: bool = attrs.field(validator=checks.flag())
    request_log: int = attrs.field(validator=checks.integer(low=0))
    archive_limit_bytes: int = attrs.field(validator=checks.integer(low=0))


class Emulator(EmulatedServer[Operation]):
    """A bridge on this machine, with nodes that only pretend to train.

    Durations, the rate limit and the age of jobs follow the running loop's clock, so that all of it works on virtual
    time as well. Steering is by the end of the model's name (see ``nodes.wishes``), by ``add_fault`` and the other
    methods, or by the control plane under ``/_emulator/``.

    Args:
        host: The address to listen on.
        port: The port, or 0 for a free one.
        speed: Seconds of training time that pass in one second, > 0; nothing else is sped up.
        rate_limit: Creates per minute of the keys that ``new_key`` makes.
        folder: Where journal, keys and archives are kept, and found again; None for a folder that goes with the
            emulator.
        images: Images in every data set, >= 1.
        round_overhead: Seconds of training time that a round takes besides its steps, >= 0.
        seconds_per_step: Seconds of training time of an optimizer step, >= 0.
        retention_days: Days until a finished job is deleted; 0 keeps it for ever.
        unet: The size of the model: "tiny" has the same tensors as "sd15", and archives of half a megabyte.
        durable: Whether the journal is forced to the disk at each create; without, a simulation of very many jobs
            is faster.
        request_log: How many requests are remembered.
        archive_limit_bytes: How much room archives may take on disk; one that had to make way is made again when asked
            for. A job whose archive alone would be larger fails, as if the network did not take the upload.
        control_token: What the control plane wants in the header ``X-Emulator-Token``. None means that nothing is
            wanted on an address of this machine only, and that one is drawn on any other.
        owner: The wallet that may make and change keys, and the token that opens the traces; None for nobody.

    Raises:
        ValueError: An option makes no sense.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        speed: float = 1.0,
        rate_limit: int = 60,
        folder: Path | str | None = None,
        images: int = 8,
        round_overhead: float = 20.0,
        seconds_per_step: float = 1.0,
        retention_days: float = 7.0,
        unet: Literal["sd15", "tiny"] = "sd15",
        durable: bool = True,
        request_log: int = 100_000,
        archive_limit_bytes: int = 2 * 1024**3,
        control_token: str | None = None,
        owner: Owner | None = None,
    ) -> None:
        self._options = _Options(
            port=port,
            speed=speed,
            rate_limit=rate_limit,
            images=images,
            round_overhead=round_overhead,
            seconds_per_step=seconds_per_step,
            retention_days=retention_days,
            unet=unet,
            durable=durable,
            request_log=request_log,
            archive_limit_bytes=archive_limit_bytes,
        )
        super().__init__(
            OPERATIONS, host=host, port=port, folder=folder, request_log=request_log, control_token=control_token
        )
        self._owner = owner or Owner()
        self._bridge: Bridge | None = None

    async def start(self) -> None:
        """Open the folder and listen.

        Raises:
            OSError: If the folder cannot be used or the address is taken.
        """
        folder = self._open_folder()
        bridge = self._bridge = await self._new_bridge(folder)
        control = BridgeControl(bridge, self._steering(bridge.buckets.forget, bridge.database.entries))
        self._control = self._plane(control.calls())
        admin = Admin(
            owner=self._owner,
            database=bridge.database,
            buckets=bridge.buckets,
            clock=self._clock,
            speed=self._options.speed,
            traced=len(bridge.database.jobs) + 1,
        )
        self._served = FaultyBridge(bridge=bridge, admin=admin, faults=self._faults, clock=self._clock)
        try:
            await self._listener.open()
        except BaseException:
            await self._close_bridge(bridge)
            raise

    async def _new_bridge(self, folder: Path) -> Bridge:
        options = self._options
        network = Network(
            images=options.images,
            round_overhead=options.round_overhead,
            seconds_per_step=options.seconds_per_step,
            unet=SIZES[options.unet],
            largest_archive=min(options.archive_limit_bytes, LARGEST),
        )
        database = Database(folder, network=network, clock=self._clock, durable=options.durable)
        await database.take_up()
        return Bridge(
            database,
            ArchiveShelf(folder / "archives", network.unet, limit_bytes=options.archive_limit_bytes),
            clock=self._clock,
            speed=options.speed,
            retention_days=options.retention_days,
        )

    async def close(self) -> None:
        """Stop listening, cut all connections and forget a temporary folder."""
        if self._bridge is None:
            return
        await self._listener.close()
        await self._close_bridge(self._bridge)

    async def _close_bridge(self, bridge: Bridge) -> None:
        self._bridge = None
        await bridge.close()
        self._drop_folder()

    @property
    def jobs(self) -> Mapping[int, Job]:
        """Every id ever given away, deleted ones included."""
        return self._running.database.jobs

    @property
    def journal(self) -> Sequence[JournalEntry]:
        """Every id in order, with its key and time."""
        return list(self._running.database.entries())

    def progress(self, task_id: int) -> Progress:
        """Return how far a job is.

        Raises:
            KeyError: If there never was such an id.
        """
        return self._running.progress(task_id)

    def new_key(
        self,
        *,
        roles: Collection[str] = ("chat",),
        rate_limit: int | None = None,
        use_limit: int = -1,
        primed: bool = True,
        used_count: int = 0,
        expired: bool = False,
    ) -> str:
        """Make an API key.

        Args:
            roles: "chat" or "admin" opens the calls.
            rate_limit: Creates per minute; None for the emulator's.
            use_limit: LLM calls in all; -1 for no limit.
            primed: Whether the key has been used before; the first job of a key that has not is never delivered.
            used_count: LLM calls so far.
            expired: Whether its year is over.

        Returns:
            Its 44 characters.

        Raises:
            ValueError: An argument makes no sense.
        """
        options = KeyOptions(
            roles=roles,
            rate_limit=self._options.rate_limit if rate_limit is None else rate_limit,
            use_limit=use_limit,
            primed=primed,
            used_count=used_count,
            expired=expired,
        )
        return self._running.database.new_key(options)

    def settings(self, *, api_key: str | None = None) -> SessionSettings:
        """Return arguments for ``Session`` that fit this bridge: ``Session(**emulator.settings())``.

        They name its address and the limit of the key, and let the session look as much more often as training is
        faster: of a job that ends after a quarter of a second it would hear after a minute otherwise.

        Args:
            api_key: The key to use; None for a new one.

        Raises:
            KeyError: If there is no such key.
        """
        text = self.new_key() if api_key is None else api_key
        key = self._running.database.keys.find(text)
        if key is None:
            raise KeyError("no such API key")
        speed = max(1.0, self._options.speed)
        settings: SessionSettings = {
            "base_url": self.url,
            "api_key": text,
            "min_poll_interval": max(_POLL_INTERVAL / speed, _SHORTEST_POLL_INTERVAL),
            # What a session knows of ends is in real seconds: a delay goes with their square.
            "poll_delay": _POLL_DELAY / speed**2,
            "trust_env": False,
        }
        if key.rate_limit >= 1:
            settings["rate_limit"] = key.rate_limit
        return settings

    def set_rate_limit(self, api_key: str, limit: int) -> None:
        """Change a key's creates per minute as the bridge's admin call does.

        Of a bucket that is in use only the rate changes; its burst stays until a restart. A key that has created
        nothing since the last restart has no bucket yet and gets one with the new limit.

        Args:
            api_key: The key.
            limit: Creates per minute.

        Raises:
            KeyError: If there is no such key.
        """
        if not self._running.set_rate_limit(api_key, limit):
            raise KeyError("no such API key")

    def restart(self) -> None:
        """Do what a restart of the bridge does: buckets are forgotten, connections cut, jobs and keys stay."""
        self._running.buckets.forget()
        self._listener.cut_connections()

    @property
    def _running(self) -> Bridge:
        if self._bridge is None:
            raise RuntimeError("the emulator is not running: use 'async with Emulator(...)' or await start()")
        return self._bridge
