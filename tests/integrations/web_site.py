"""A web application with its board in a process of its own, an emulated bridge, and what a browser test does with them.

Everything here blocks: the browser is driven without an event loop.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from crynux_async.emulator import Emulator
from crynux_async.ledgers import open_ledger
from crynux_async.ledgers.base import JobRow
from tests.integrations.web_lab import GOOD
from tests.integrations.web_server import WORKER

_ROOT = Path(__file__).parents[2]


@attrs.define(eq=False)
class Site:
    """A server that can be stopped and started again under one address.

    Attributes:
        url: Its address.
        service: The name of the bridge in its ledger.
        folder: Where its ledger and its models are.
    """

    url: str
    service: str
    folder: Path
    _listening: socket.socket
    _environment: dict[str, str]
    _process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        number = self._listening.fileno()
        command = [sys.executable, "-c", WORKER, "tests.integrations.web_app:app", str(number)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=_ROOT, env=self._environment, pass_fds=[number], stdout=log, stderr=log
            )
        with urllib.request.urlopen(f"{self.url}/board/static/icon.svg", timeout=60) as answer:
            assert answer.status == 200

    def stop(self) -> None:
        """Stop it as a supervisor does, and wait for its end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(60)
            self._process = None

    def submit(self, label: str, **changes: Any) -> str:
        """Submit a job, and return its name."""
        body = json.dumps({**GOOD, **changes}).encode()
        headers = {"Content-Type": "application/json"}
        query = urllib.parse.urlencode({"label": label, "tag": "sweep:cats"})
        request = urllib.request.Request(f"{self.url}/jobs?{query}", body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(json.load(answer)["job_id"])

    def add(self, rows: Sequence[JobRow]) -> None:
        """Add jobs to its ledger."""

        async def add() -> None:
            ledger = open_ledger(self.folder / "jobs.db")
            await ledger.open()
            try:
                await ledger.add([attrs.evolve(row, backend=self.service) for row in rows])
            finally:
                await ledger.close()

        # In a thread: the browser's driver has a loop in this one.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: asyncio.run(add())).result()


@contextmanager
def emulated_bridge(speed: float) -> Iterator[Emulator]:
    """Run a bridge in a thread for the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    bridge = Emulator(speed=speed, rate_limit=600, unet="tiny")
    asyncio.run_coroutine_threadsafe(bridge.start(), loop).result()
    try:
        yield bridge
    finally:
        asyncio.run_coroutine_threadsafe(bridge.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def site_of(folder: Path, bridge: Emulator) -> Iterator[Site]:
    """Prepare a site for the block; it is not started yet."""
    settings = {f"CRYNUX_{name.upper()}": str(value) for name, value in bridge.settings().items()}
    environment = {**os.environ, **settings, "WEB_FOLDER": str(folder)}
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        site = Site(url=url, service=bridge.url, folder=folder, listening=listening, environment=environment)
        try:
            yield site
        finally:
            site.stop()
