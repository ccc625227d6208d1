"""Folders of a bridge, and the two-line script that starts an emulated one in them."""

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from crynux_async.backends.bridge.deploy_defaults import DEFAULT_IMAGE
from crynux_async.cli import bridge
from tests.signing.vectors import KEY


def free_port() -> int:
    """Return a port that nobody listens on, from where the system takes none for whoever asks for any port."""
    while True:
        port = secrets.randbelow(12_000) + 20_000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wallet_file(folder: Path, key: str = KEY) -> Path:
    path = folder / "wallet.key"
    path.write_text(key)
    path.chmod(0o600)
    return path


def newcomer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Become a user with a wallet and nothing else, whose home is in a folder."""
    for name in [name for name in os.environ if name.startswith("CRYNUX_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setenv("CRYNUX_WALLET", str(wallet_file(folder)))
    monkeypatch.setenv("CRYNUX_LEDGER", str(folder / "jobs.db"))
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.chdir(folder)
    return folder


def new_bridge(home: Path, name: str = "bridge") -> Path:
    """Make a bridge's folder as ``bridge init`` does."""
    bridge.init(home / name, "mainnet", DEFAULT_IMAGE, free_port(), "sqlite", as_json=False)
    return home / name


def program(folder: Path, *options: str) -> Path:
    """Write the script that behaves like the real program."""
    path = folder / "crynux_bridge"
    command = " ".join([sys.executable, "-m", "crynux_async.cli", "emulator", "--config", ".", *options])
    path.write_text(f"#!/bin/sh\nexec {command}\n")
    path.chmod(0o755)
    return path


def edit_config(folder: Path, **sections: dict[str, Any]) -> None:
    """Change values of a bridge's config, by section."""
    path = folder / "config" / "config.yml"
    values = yaml.safe_load(path.read_text())
    for section, changes in sections.items():
        values[section].update(changes)
    path.write_text(yaml.safe_dump(values))


def start(script: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program that gives up at its start, as somebody would by hand."""
    env = {**os.environ, "PYTHONWARNINGS": "error"}
    return subprocess.run([script], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)


def messages(log: str) -> list[str]:
    """Return the messages of a log in the bridge's form."""
    return [json.loads(line.partition(" msg=")[2].partition(" func=")[0]) for line in log.splitlines()]
