"""``bridge`` in containers, with a stand-in for docker that keeps a record and runs the emulated program."""

import os
import stat
import sys
from pathlib import Path

import pytest
import yaml

from crynux_async.backends.bridge.deploy_defaults import DEFAULT_IMAGE
from crynux_async.cli import bridge, bridge_up
from crynux_async.cli.bridge_folder import open_folder
from crynux_async.cli.bridge_process import ContainerRun, docker_error, last_run
from crynux_async.cli.exits import Exit
from crynux_async.errors import UnreachableError, UsageError
from tests.bridge_folders import free_port, wallet_file
from tests.signing.vectors import KEY

pytestmark = pytest.mark.real_time

# What docker compose does with the bridge's service: start it in the folder, list it, show what it said, end it.
DOCKER = f"""#!/bin/sh
echo "$@" >> "$RECORD"
case "$*" in
  "compose version") echo "Docker Compose version v2.29.1" ;;
  "info") echo "Server Version: 27.1.1" ;;
  "compose up"*)
    ls -l config/priv_key.txt >> "$RECORD"
    grep host: config/config.yml >> "$RECORD"
    {sys.executable} -m crynux_async.cli emulator --config . $OPTIONS > out.txt 2>&1 &
    echo $! > pid.txt ;;
  "compose ps"*) kill -0 "$(cat pid.txt 2> /dev/null)" 2> /dev/null && echo 4f5c2a || true ;;
  "compose logs"*) cat out.txt ;;
  "compose down"*) kill "$(cat pid.txt)" && rm pid.txt ;;
  *) exit 64 ;;
esac
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("CRYNUX_")]:
        monkeypatch.delenv(name)
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(tmp_path / "record.txt"))
    monkeypatch.setenv("OPTIONS", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CRYNUX_WALLET", str(wallet_file(tmp_path)))
    return tmp_path


@pytest.fixture
def folder(home: Path) -> Path:
    bridge.init(home / "bridge", "mainnet", DEFAULT_IMAGE, free_port(), "sqlite", as_json=False)
    return home / "bridge"


def record(home: Path) -> list[str]:
    return (home / "record.txt").read_text().splitlines()


async def test_container_is_started_with_a_key_file_and_its_port_open_inside(home: Path, folder: Path) -> None:
    assert await bridge_up.up(folder, None, 60, 30.0, as_json=False) == Exit.DONE
    commands = record(home)
    started = commands.index("compose up --detach --force-recreate bridge")
    assert commands[started + 1].startswith("-rw-------")
    assert 'host: "0.0.0.0"' in commands[started + 2]
    assert not (folder / "config" / "priv_key.txt").exists()
    assert isinstance(last_run(folder), ContainerRun)
    assert bridge_up.down(folder) == Exit.DONE
    assert record(home)[-1] == "compose down"
    assert not ContainerRun(folder).is_running()


async def test_container_that_refuses_leaves_no_key_file_and_is_explained(
    home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPTIONS", "--balance 3")
    with pytest.raises(UnreachableError, match="holds 500 CNX or less"):
        await bridge_up.up(folder, None, 60, 30.0, as_json=False)
    assert not (folder / "config" / "priv_key.txt").exists()
    capsys.readouterr()
    bridge_up.logs(folder, 10)
    assert "not enough money" in capsys.readouterr().out


async def test_doctor_looks_at_docker_and_at_what_the_compose_file_publishes(
    home: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compose = yaml.safe_load((folder / "docker-compose.yml").read_text())
    compose["services"]["bridge"]["ports"] = ["5028:5028", {"target": 5028, "published": 5029, "host_ip": "127.0.0.1"}]
    (folder / "docker-compose.yml").write_text(yaml.safe_dump(compose))
    capsys.readouterr()
    await bridge.doctor(folder, as_program=False, as_json=False)
    out = " ".join(capsys.readouterr().out.split())
    assert "Docker and its compose plug-in are there." in out
    assert "Other machines can reach the bridge (5028:5028)" in out


def test_docker_that_is_not_there_or_has_no_compose_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert docker_error() == ""
    (home / "bin" / "docker").write_text("#!/bin/sh\necho \"docker: 'compose' is not a docker command.\" >&2\nexit 1\n")
    assert docker_error() == "docker: 'compose' is not a docker command."
    monkeypatch.setenv("PATH", str(home / "empty"))
    assert "docker is not there" in docker_error()


async def test_up_without_docker_says_what_to_do_and_leaves_no_key_file(
    home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(home / "empty"))
    with pytest.raises(UsageError, match="install it, or use --binary PATH"):
        await bridge_up.up(folder, None, 60, 30.0, as_json=False)
    assert not (folder / "config" / "priv_key.txt").exists()


async def test_compose_that_fails_is_said_in_its_own_words(home: Path, folder: Path) -> None:
    (home / "bin" / "docker").write_text(
        '#!/bin/sh\ncase "$*" in *up*) echo "manifest unknown" >&2; exit 1 ;; *) exit 0 ;; esac\n'
    )
    with pytest.raises(UsageError, match="docker compose could not start the bridge: manifest unknown"):
        await bridge_up.up(folder, None, 60, 30.0, as_json=False)
    assert not (folder / "config" / "priv_key.txt").exists()
    assert stat.S_IMODE((folder / "config" / "config.yml").stat().st_mode) == 0o600
    assert open_folder(folder).config.host == "0.0.0.0"
    assert KEY not in "".join(path.read_text() for path in folder.rglob("*") if path.is_file())


def docker_that_fails(home: Path, at: str, words: str) -> None:
    """Let docker fail at one thing, and do all else."""
    path = home / "bin" / "docker"
    failing = f'case "$*" in "compose {at}"*) echo "{words}" >&2; exit 1 ;; esac\n'
    path.write_text(DOCKER.replace("#!/bin/sh\n", f"#!/bin/sh\n{failing}"))


@pytest.mark.parametrize("at", ["down", "ps"])
async def test_container_that_docker_does_not_stop_is_not_called_stopped(home: Path, folder: Path, at: str) -> None:
    await bridge_up.up(folder, None, 60, 30.0, as_json=False)
    docker_that_fails(home, at, "Cannot connect to the Docker daemon")
    with pytest.raises(UsageError, match=r"docker compose could not .*: Cannot connect to the Docker daemon"):
        bridge_up.down(folder)
    (home / "bin" / "docker").write_text(DOCKER)
    assert isinstance(last_run(folder), ContainerRun)
    assert bridge_up.down(folder) == Exit.DONE
    assert not ContainerRun(folder).is_running()


# Debian's package docker.io: options of compose are taken for docker's own.
WITHOUT_COMPOSE = """#!/bin/sh
case "$*" in
  "compose version") echo "docker: unknown command: docker compose" >&2; exit 1 ;;
  compose*) echo "unknown flag: --quiet" >&2; exit 125 ;;
esac
"""


async def test_docker_without_compose_is_said_by_every_command_that_needs_it(
    home: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await bridge_up.up(folder, None, 60, 30.0, as_json=False)
    (home / "bin" / "docker").write_text(WITHOUT_COMPOSE)
    said = r"docker cannot be used \(docker: unknown command: docker compose\); install docker with compose"
    with pytest.raises(UsageError, match=said):
        await bridge_up.up(folder, None, 60, 30.0, as_json=False)
    with pytest.raises(UsageError, match=said):
        bridge_up.logs(folder, 10)
    with pytest.raises(UsageError, match=said):
        bridge_up.down(folder)
    (home / "bin" / "docker").write_text(DOCKER)
    assert bridge_up.down(folder) == Exit.DONE


def test_logs_where_nothing_was_ever_started_need_no_docker(
    home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(home / "empty"))
    capsys.readouterr()
    assert bridge_up.logs(folder, 10) == Exit.DONE
    assert capsys.readouterr().out == "The bridge has logged nothing yet.\n"


def test_logs_of_a_folder_that_is_not_there_do_not_blame_docker(home: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder") as caught:
        bridge_up.logs(home / "mistyped", 10)
    assert caught.value.field == "folder"


async def test_logs_that_docker_does_not_show_are_an_error(home: Path, folder: Path) -> None:
    docker_that_fails(home, "logs", "no such service: bridge")
    with pytest.raises(UsageError, match="docker compose could not show what the bridge said: no such service: bridge"):
        bridge_up.logs(folder, 10)


def test_down_where_nothing_was_ever_started_needs_no_docker(
    home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(home / "empty"))
    assert bridge_up.down(folder) == Exit.DONE
    assert "The bridge was not running." in capsys.readouterr().out


async def test_doctor_says_what_docker_does_not_understand(
    home: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docker_that_fails(home, "ps", "yaml: line 3: mapping values are not allowed")
    assert await bridge.doctor(folder, as_program=False, as_json=False) == Exit.USAGE
    assert "yaml: line 3" in " ".join(capsys.readouterr().out.split())
