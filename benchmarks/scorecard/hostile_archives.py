"""Case X4: a hundred generated archives that mean harm by what they announce and how they are built.

Each is whole as a ZIP, so that nothing but the reader's own care stands between it and the reader's memory and loop.
"""

import asyncio
import json
import random
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.scorecard.case import Case, Context
from benchmarks.scorecard.processes import child, run
from benchmarks.scorecard.tasks import WEIGHTS, names_in

ARCHIVES_PER_SEED, MOST_ARCHIVES = 5, 100
MOST_GROWTH_MIB, MOST_STOP_MS = 64.0, 10.0
_MEBIBYTE = 1 << 20
_HEADER_BYTES = 2 * _MEBIBYTE
_TIMEOUT = 1200.0

Header = Mapping[str, Any] | bytes


def hostile(context: Context) -> str:
    """X4: a hundred hostile archives, each read, judged, measured and exported."""
    count = min(MOST_ARCHIVES, ARCHIVES_PER_SEED * context.seeds)
    for number, (kind, write) in zip(range(count), _kinds(), strict=False):
        write(context.folder / f"{number:03}-{kind}.zip", random.Random(number))
    before = names_in(context.folder)
    # With more threads, numpy's library for matrices competes with the loop for processors, not for the interpreter.
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    ended = asyncio.run(run(child("attack", context.folder, MOST_STOP_MS), env=one_thread, timeout=_TIMEOUT))
    assert ended.code == 0, ended.err
    seen = json.loads(ended.out)
    assert len(seen) == count, f"{len(seen)} of {count} archives were seen"
    assert names_in(context.folder) == before, f"left behind: {set(names_in(context.folder)) - set(before)}"
    for name, facts in seen.items():
        assert facts["grown_mib"] < MOST_GROWTH_MIB, f"{name}: memory grew by {facts['grown_mib']:.0f} MiB"
        assert facts["stop_ms"] <= MOST_STOP_MS, f"{name}: the loop stood still for {facts['stop_ms']:.1f} ms"
    refused = sum(bool(facts["outcomes"]["verify"]) for facts in seen.values())
    grown = max(facts["grown_mib"] for facts in seen.values())
    stop = max(facts["stop_ms"] for facts in seen.values())
    return (
        f"{count} archives, {refused} refused: memory +{grown:.0f} MiB, the loop stood still for {stop:.1f} ms at most"
    )


def _kinds() -> Iterator[tuple[str, Callable[[Path, random.Random], None]]]:
    """Yield kinds of archives, for ever."""
    kinds: dict[str, Callable[[Path, random.Random], None]] = {
        "one-large-tensor": _one_large_tensor,
        "nested-header": _nested_header,
        "wide-header": _wide_header,
        "many-tensors": _many_tensors,
        "metadata": _metadata,
        "adapter-metadata": _adapter_metadata,
        "alpha-pattern": _alpha_pattern,
        "high-rank": _high_rank,
        "partners-apart": _partners_apart,
        "all-nan": _all_nan,
        "large-step-count": _large_step_count,
        "many-members": _many_members,
    }
    while True:
        yield from kinds.items()


def _write(path: Path, header: Header, data: Iterator[bytes], others: Mapping[str, bytes] | None = None) -> None:
    """Write a ZIP with a safetensors file of this header and these bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open(WEIGHTS, "w", force_zip64=True) as file:
            file.write(len(raw).to_bytes(8, "little") + raw)
            for piece in data:
                file.write(piece)
        for name, content in (others or {"global_step.txt": b"10", "FINISH": b""}).items():
            archive.writestr(name, content)


def _header(tensors: Mapping[str, list[int]], metadata: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], int]:
    """Return a header for float32 tensors of these shapes, in their order, and how many bytes they have."""
    header: dict[str, Any] = {"__metadata__": metadata or {"format": "pt"}}
    offset = 0
    for name, shape in tensors.items():
        size = 4
        for side in shape:
            size *= side
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    return header, offset


def _repeated(size: int, pattern: bytes = b"\0") -> Iterator[bytes]:
    block = pattern * (_MEBIBYTE // len(pattern))
    for begin in range(0, size, len(block)):
        yield block[: min(len(block), size - begin)]


def _pair(module: str, rank: int, inputs: int, outputs: int) -> dict[str, list[int]]:
    return {f"unet.{module}.lora_A.weight": [rank, inputs], f"unet.{module}.lora_B.weight": [outputs, rank]}


def _one_large_tensor(path: Path, rng: random.Random) -> None:
    size = 512 if rng.random() < 0.2 else rng.choice([8, 33, 120])
    header, total = _header(_pair("conv_in", 2, size * _MEBIBYTE // 8, 2))
    _write(path, header, _repeated(total))


def _nested_header(path: Path, rng: random.Random) -> None:
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    depth = rng.choice([900, 10_000, 100_000, _HEADER_BYTES // (len(opening) + 1) - 20])
    raw = b'{"a":' + opening * depth + b"1" + closing * depth + b"}"
    _write(path, raw[:_HEADER_BYTES], _repeated(8))


def _wide_header(path: Path, rng: random.Random) -> None:
    item = rng.choice(
        [b"[]", b"{}", b'""', b"0", b"[[[]]]", b'{"a":{}}', b"123456789012345678901234567890", b'"\\u0041"']
    )
    each = rng.choice([10_000, 120_000, 1_900_000])
    entry = b'"%d":[' + b",".join([item] * (each // (len(item) + 1))) + b"]"
    raw = b"{" + b",".join(entry % number for number in range(_HEADER_BYTES // len(entry))) + b"}"
    _write(path, raw, _repeated(8))


def _many_tensors(path: Path, rng: random.Random) -> None:
    tensors: dict[str, list[int]] = {}
    long = "x" * rng.choice([1, 60])
    for number in range(rng.choice([2048, 2049])):
        tensors |= _pair(f"down_blocks.{number}.{long}", 1, 1, 1)
    header, total = _header(tensors)
    _write(path, header, _repeated(total))


def _metadata(path: Path, rng: random.Random) -> None:
    unit = rng.choice(["x", '"', "\\", "\u2028", "},", '"},"'])
    size = rng.choice([10_000, 120_000, 1_500_000])
    header, total = _header(_pair("conv_in", 2, 4, 4), {"format": "pt", "note": unit * (size // len(unit))})
    _write(path, header, _repeated(total))


def _adapter_metadata(path: Path, rng: random.Random) -> None:
    text = rng.choice(
        [
            "[" * 100_000,
            '{"a":' * 20_000 + "1" + "}" * 20_000,
            json.dumps({"lora_alpha": 10**300, "r": 2}),
            json.dumps({"lora_alpha": 8, "junk": [[] for _ in range(20_000)]}),
            json.dumps({"lora_alpha": 8, "alpha_pattern": {"(a*)*$": 3}}),
        ]
    )
    header, total = _header(_pair("conv_in", 2, 4, 4), {"lora_adapter_metadata": text})
    _write(path, header, _repeated(total))


def _alpha_pattern(path: Path, rng: random.Random) -> None:
    names = [f"{'a' * rng.randrange(1, 4)}{number}" for number in range(8_000)]
    metadata = {"lora_adapter_metadata": json.dumps({"lora_alpha": 8, "alpha_pattern": dict.fromkeys(names, 3)})}
    tensors: dict[str, list[int]] = {}
    for number in range(2_048):
        tensors |= _pair(f"up_blocks.{number}.{'b.' * 20}c", 1, 1, 1)
    header, total = _header(tensors, metadata)
    _write(path, header, _repeated(total))


def _high_rank(path: Path, rng: random.Random) -> None:
    rank = rng.choice([1024, 1025, 4096, 8500])
    header, total = _header(_pair("conv_out", rank, 2048, 1280))
    _write(path, header, _repeated(total, struct.pack("<f", 0.5)))


def _partners_apart(path: Path, rng: random.Random) -> None:
    """All down tensors first: whoever keeps what waits for its partner keeps everything."""
    tensors: dict[str, list[int]] = {}
    for number in range(rng.choice([60, 100])):
        tensors |= _pair(f"down_blocks.{number}.attn1.to_q.x", 128, 4096, 8)
    apart = dict(sorted(tensors.items(), key=lambda item: "lora_B" in item[0]))
    header, total = _header(apart)
    _write(path, header, _repeated(total))


def _all_nan(path: Path, rng: random.Random) -> None:
    tensors: dict[str, list[int]] = {}
    for number in range(rng.choice([4, 8])):
        tensors |= _pair(f"mid_block.resnets.{number}.conv1", 256, 11_520, 1280)
    header, total = _header(tensors)
    _write(path, header, _repeated(total, struct.pack("<f", rng.choice([float("nan"), float("inf")]))))


def _large_step_count(path: Path, rng: random.Random) -> None:
    header, total = _header(_pair("conv_in", 2, 4, 4))
    digits = rng.choice([18, 19, 5_000, 1_000_000])
    _write(path, header, _repeated(total), {"global_step.txt": b"9" * digits})


def _many_members(path: Path, rng: random.Random) -> None:
    header, total = _header(_pair("conv_in", 2, 4, 4))
    each = bytes(rng.choice([2, 100]) * _MEBIBYTE)
    names = ["global_step.txt", *(f"m{number}.bin" for number in range(rng.choice([1, 60])))]
    _write(path, header, _repeated(total), dict.fromkeys(names[:4], each) | dict.fromkeys(names[4:], b""))


CASES = (Case(name="X4", fault="a hundred hostile archives: tensors, headers, metadata, ranks", run=hostile),)
