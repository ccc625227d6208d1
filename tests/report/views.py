"""Sweeps as pages see them, for tests."""

import struct
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any

from crynux_async.report import SweepView, TrialView

START = datetime(2026, 11, 28, 9, 0, tzinfo=UTC)


def picture(shade: int = 128) -> bytes:
    """Return a PNG of one grey pixel."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes([0, shade])))
        + chunk(b"IEND", b"")
    )


def trial(number: int, **changes: Any) -> TrialView:
    plain: dict[str, Any] = {
        "number": number,
        "label": f"rank={4 * number}",
        "state": "done",
        "params": {"rank": 4 * number, "lr_scheduler": "cosine" if number % 2 else "constant"},
        "job_id": f"j{number:032x}",
        "task_id": str(100 + number),
        "norm": float(number),
        "blocks": {"down 0": number / 2, "mid": number / 4},
        "verdict": "usual",
        "cost_cnx": 15.0,
        "sent_at": START + timedelta(minutes=number),
        "noticed_at": START + timedelta(minutes=30 + 2 * number),
        "stored_at": START + timedelta(minutes=31 + 2 * number),
    }
    return TrialView(**{**plain, **changes})


def failed(number: int, **changes: Any) -> TrialView:
    nothing: dict[str, Any] = {
        "state": "failed",
        "norm": None,
        "blocks": {},
        "verdict": "",
        "cost_cnx": 0.0,
        "stored_at": None,
    }
    return trial(number, **{**nothing, "error": "the network gave up after four attempts", "cost_cnx": 0.0, **changes})


def view(*trials: TrialView, **changes: Any) -> SweepView:
    plain: dict[str, Any] = {
        "name": "cats",
        "base": {"model_name": "crynux-ai/stable-diffusion-v1-5", "max_train_steps": 200, "rank": 8},
        "trials": trials,
        "written_at": START + timedelta(hours=2),
    }
    return SweepView(**{**plain, **changes})
