"""How fast a result comes to disk: ``python -m benchmarks.download [--mib N] [--repeat N]``.

One file of 1 GiB and 100 files of 10 MiB go over loopback to disk, from a file server in another process: nginx where
it is installed, else a small aiohttp server that uses sendfile. A file that is deflated, as nodes do it, comes over a
link of 100 MB/s, too. Peers: curl, bare aiohttp with blocking writes, the streaming loop that the bridge's how-to shows
(httpx), and crynux_async through its real backend and download engine, without and with verification. Each run is a
process of its own; the peers take turns, and a ratio is curl's time over the peer's time in the same turn, so above 1
is faster than curl.

crynux_async makes its files durable before they get their names, and nobody else does. *no fsync* is the ratio without
the time in which nothing but an fsync ran; *curl + fsync* is there for comparison. CPU seconds, memory and loop lag are
the client's own: memory is the growth of the resident set from just before the first request, and the lag is how late a
5 ms timer fires; beside curl it is that of an idle loop, which is the machine's own.
"""

import argparse
import json
import math
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import attrs

from benchmarks.reporting import finish, show_table
from benchmarks.transfers import LINK, LINK_BYTES_PER_SECOND, PATH
from benchmarks.transfers import MODULE as TRANSFERS
from crynux_async.emulator.nodes.unet import Unet
from crynux_async.emulator.nodes.weights import Lora
from crynux_async.emulator.nodes.zip_files import Member, write_zip

LARGE, LARGE_DEFLATED, FIRST_SMALL = 1, 2, 101
SMALL_FILES, SMALL_MIB = 100, 10
TARGET_RATIO, TARGET_STORED, TARGET_DEFLATED, TARGET_LINK = 1.0, 1.0, 0.45, 0.95
TARGET_RSS_MIB, TARGET_LAG_MS = 24.0, 10.0
_MEBIBYTE = 1 << 20
_NGINX = """
daemon off; pid {folder}/nginx.pid; error_log stderr error; worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off; sendfile on; tcp_nopush on; etag off; keepalive_requests 100000; default_type application/zip;
    client_body_temp_path {folder}/t; proxy_temp_path {folder}/t; fastcgi_temp_path {folder}/t;
    uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t;
    server {{
        listen 127.0.0.1:{port};
        location = /v1/images/models/{link}/result {{ limit_rate {rate}; alias {folder}/{link}.zip; }}
        location ~ ^/v1/images/models/([0-9]+)/result$ {{ alias {folder}/$1.zip; }}
    }}
}}
"""


@attrs.frozen(kw_only=True)
class Workload:
    """Files to fetch.

    Attributes:
        name: What it is called in the tables.
        first: Number of the first file.
        count: How many files, numbered from there.
    """

    name: str
    first: int
    count: int = 1


@attrs.frozen(kw_only=True)
class Peer:
    """One way to fetch them.

    Attributes:
        name: What it is called in the tables.
        program: Its name in ``benchmarks.transfers``.
        options: Its further arguments.
    """

    name: str
    program: str
    options: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Run:
    """What one run came to; see ``benchmarks.transfers``."""

    seconds: float
    fsync_seconds: float
    cpu_seconds: float
    rss_mib: float | None
    lag_ms: float | None
    bytes: int


CURL = Peer(name="curl -o", program="curl")
UNVERIFIED = Peer(name="crynux_async, not verified", program="crynux_async")
VERIFIED = Peer(name="crynux_async, verified", program="crynux_async", options=("--verify",))
PEERS = (
    CURL,
    Peer(name="curl -o, then fsync", program="curl", options=("--fsync",)),
    Peer(name="aiohttp iter_chunked(1 MiB), blocking write", program="aiohttp"),
    Peer(name="httpx loop of the how-to", program="httpx"),
    UNVERIFIED,
    VERIFIED,
)


def main() -> int:
    """Measure, print, and return the exit code: 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.download", description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the large file (default 1024)")
    parser.add_argument("--repeat", type=int, default=7, help="turns of every peer (default 7)")
    parser.add_argument("--folder", type=Path, help="where to work; on the disk that is to be measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="download-benchmark-", dir=options.folder) as place:
        folder = Path(place)
        sizes = _make_files(folder, options.mib)
        with _serving(folder) as (url, server):
            workloads = (
                Workload(name=f"{options.mib} MiB, stored", first=LARGE),
                Workload(name=f"{options.mib} MiB, deflated", first=LARGE_DEFLATED),
                Workload(name=f"{options.mib} MiB, deflated, over {LINK_BYTES_PER_SECOND / 1e6:.0f} MB/s", first=LINK),
                Workload(
                    name=f"{SMALL_FILES} x {SMALL_MIB} MiB, stored, 4 at once", first=FIRST_SMALL, count=SMALL_FILES
                ),
            )
            results = {w.name: _measure(w, url, folder / "out", options.repeat, sizes) for w in workloads}
    print(f"\n  server: {server}")
    missed = [problem for name, rows in results.items() for problem in _missed(name, rows)]
    for problem in missed:
        print(f"  missed: {problem}")
    finish("download", {"server": server, "mib": options.mib, "workloads": results, "missed": missed})
    return 1 if missed else 0


def _measure(workload: Workload, url: str, out: Path, repeat: int, sizes: dict[int, int]) -> dict[str, Any]:
    """Let the peers take turns and return their figures by name."""
    runs: dict[str, list[Run]] = {peer.name: [] for peer in PEERS}
    expected = workload.count * sizes[workload.first]
    for turn in range(repeat + 1):
        for peer in random.Random(turn).sample(PEERS, len(PEERS)):
            run = _run(peer, workload, url, out)
            if run.bytes != expected:
                raise AssertionError(f"{peer.name} brought {run.bytes} of {expected} bytes")
            if turn:  # the first turn warms the page cache and is not counted
                runs[peer.name].append(run)
            print(f"{workload.name}, turn {turn}, {peer.name}: {run.seconds:.2f} s", file=sys.stderr)
    rows = {peer.name: _summary(runs[peer.name], runs[CURL.name], expected) for peer in PEERS}
    _show(workload.name, repeat, rows)
    return rows


def _run(peer: Peer, workload: Workload, url: str, out: Path) -> Run:
    """Run one peer in a process of its own and in an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    numbers = [str(number) for number in range(workload.first, workload.first + workload.count)]
    command = [sys.executable, "-m", TRANSFERS, peer.program, *peer.options, url, str(out), *numbers]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{peer.name} failed: {error.stderr}") from error
    total = sum(path.stat().st_size for path in out.iterdir())
    shutil.rmtree(out)
    return Run(**json.loads(ended.stdout.splitlines()[-1]), bytes=total)


def _summary(runs: Sequence[Run], curl: Sequence[Run], total: int) -> dict[str, Any]:
    lags = [run.lag_ms for run in runs if run.lag_ms is not None]
    growths = [run.rss_mib for run in runs if run.rss_mib is not None]
    pairs = list(zip(runs, curl, strict=True))
    return {
        "mb_per_s": round(median(total / run.seconds for run in runs) / 1e6, 1),
        "ratio": round(median(base.seconds / run.seconds for run, base in pairs), 3),
        "ratio_without_fsync": round(
            median(base.seconds / (run.seconds - run.fsync_seconds) for run, base in pairs), 3
        ),
        "cpu_s": round(median(run.cpu_seconds for run in runs), 3),
        "rss_growth_mib": round(max(growths), 1) if growths else None,
        "lag_p99_ms": round(median(lags), 2) if lags else None,
    }


def _show(workload: str, repeat: int, rows: dict[str, Any]) -> None:
    columns = ("peer", "MB/s", "vs curl", "no fsync", "CPU s", "RSS +MiB, max", "lag p99 ms")
    show_table(f"{workload}, median of {repeat} turns", columns, [(name, *row.values()) for name, row in rows.items()])


def _missed(workload: str, rows: dict[str, Any]) -> Iterator[str]:
    """Yield what is not as it should be; a deflated file is inflated to be verified, which nobody else does."""
    verified = TARGET_STORED if "stored" in workload else TARGET_LINK if "over" in workload else TARGET_DEFLATED
    # A link is the bottleneck: nobody can be faster than curl, or than anybody else.
    targets = ((UNVERIFIED, TARGET_LINK if "over" in workload else TARGET_RATIO), (VERIFIED, verified))
    for peer, target in targets:
        ratio = rows[peer.name]["ratio_without_fsync"]
        if ratio < target:
            yield f"{workload}: {peer.name} at {ratio:.2f} of curl, not {target}"
    for peer in (UNVERIFIED, VERIFIED):
        if rows[peer.name]["rss_growth_mib"] > TARGET_RSS_MIB:
            yield f"{workload}: memory of {peer.name} grew by {rows[peer.name]['rss_growth_mib']} MiB"
        if rows[peer.name]["lag_p99_ms"] >= TARGET_LAG_MS:
            yield f"{workload}: loop lag of {peer.name} at {rows[peer.name]['lag_p99_ms']} ms"


def _make_files(folder: Path, mebibytes: int) -> dict[int, int]:
    """Make the archives, under one name for every number that is asked for, and return their sizes."""
    _make_archive(folder / f"{LARGE}.zip", mebibytes, is_stored=True)
    _make_archive(folder / f"{LARGE_DEFLATED}.zip", mebibytes, is_stored=False)
    os.link(folder / f"{LARGE_DEFLATED}.zip", folder / f"{LINK}.zip")
    first = folder / f"{FIRST_SMALL}.zip"
    _make_archive(first, SMALL_MIB, is_stored=True)
    for number in range(FIRST_SMALL + 1, FIRST_SMALL + SMALL_FILES):
        os.link(first, folder / f"{number}.zip")
    return {number: (folder / f"{number}.zip").stat().st_size for number in (LARGE, LARGE_DEFLATED, LINK, FIRST_SMALL)}


def _make_archive(path: Path, mebibytes: int, *, is_stored: bool) -> None:
    """Make a sound archive of about a size: a small LoRA, and an optimizer state of weights like a LoRA's."""
    modules = Unet(widths=(8, 16, 32, 32), context=24).targeted(("to_k", "to_q", "to_v", "to_out.0"))
    lora = Lora(modules=modules, rank=4, dtype="F32", seed="1")
    block = _floats(modules)
    # One and the same block is packed once: a deflated file of any size is made quickly.
    ratio = 1.0 if is_stored else _packed_size(path, block) / len(block)
    count = max(1, math.floor(mebibytes * _MEBIBYTE / len(block) / ratio))
    members = (
        Member(name="pytorch_lora_weights.safetensors", pieces=lora.pieces()),
        Member(name="global_step.txt", pieces=(b"100",)),
        Member(name="optimizer.bin", pieces=(block for _ in range(count)), is_stored=is_stored),
        Member(name="FINISH", pieces=()),
    )
    with path.open("wb") as file:
        for _ in write_zip(file, members):
            pass


def _floats(modules: Any) -> bytes:
    """Return some MiB of numbers that pack as a LoRA's do."""
    pieces = Lora(modules=modules, rank=64, dtype="F32", seed="2").pieces()
    return b"".join(piece for index, piece in enumerate(pieces) if index)


def _packed_size(path: Path, block: bytes) -> int:
    with path.open("wb") as file:
        for _ in write_zip(file, (Member(name="a", pieces=(block,)),)):
            pass
    return path.stat().st_size


@contextmanager
def _serving(folder: Path) -> Iterator[tuple[str, str]]:
    """Serve the folder from another process and return its address and the server's name."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if nginx is not None:
        conf = folder / "nginx.conf"
        conf.write_text(_NGINX.format(folder=folder, port=port, link=LINK, rate=int(LINK_BYTES_PER_SECOND)))
        folder.chmod(0o755)  # its worker is another user
        command, name = [nginx, "-p", str(folder), "-e", "stderr", "-c", str(conf)], "nginx (sendfile)"
    else:
        command, name = [sys.executable, "-m", TRANSFERS, "serve", str(folder), str(port)], "aiohttp (sendfile)"
    server = subprocess.Popen(command)
    try:
        _wait_for(server, port)
        yield f"http://127.0.0.1:{port}", name
    finally:
        server.terminate()
        server.wait()


def _wait_for(server: "subprocess.Popen[bytes]", port: int) -> None:
    for _ in range(200):
        if server.poll() is not None:
            raise RuntimeError("the file server ended at once")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"the file server does not listen for {PATH.format('N')}")


if __name__ == "__main__":
    sys.exit(main())
