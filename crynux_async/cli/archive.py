"""``inspect``, ``export`` and ``merge``: what is in an archive, and its LoRA as a file that programs load whole."""

import json
import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from crynux_async.archive import Health, LoraArchive, Member, Norms, Part, Program
from crynux_async.archive import merge as merge_parts
from crynux_async.archive.members import is_pickle
from crynux_async.archive.metadata import base_model_said, family_said, trigger_said
from crynux_async.cli.archive_page import Report, in_flow, left_out, page_console, show
from crynux_async.cli.exits import Exit
from crynux_async.cli.export_page import Exported, export_facts, show_export
from crynux_async.cli.written_file import WrittenFile
from crynux_async.errors import ArchiveError, UsageError
from crynux_async.training.config import FineTuneConfig


def inspect(path: Path, config_path: Path | None, *, as_json: bool) -> Exit:
    """Check every byte and every weight of an archive, and show what it holds."""
    config = None if config_path is None else FineTuneConfig.from_file(config_path)
    archive = LoraArchive.open(path)
    summary = archive.verify()
    report = Report(
        archive=archive,
        summary=summary,
        health=archive.health(config),
        norms=_norms(archive),
        config=config,
        config_path=config_path,
    )
    if as_json:
        print(json.dumps(_facts(report)))  # noqa: T201  # the command's output
    else:
        show(page_console(), report)
    return Exit.DONE if report.health.ok else Exit.JOB_ENDED_BADLY


def export(
    path: Path,
    out: Path,
    file: WrittenFile,
    config_path: Path | None,
    *,
    as_json: bool,
) -> Exit:
    """Write an archive's LoRA as one safetensors file and say how to use it in each program."""
    # Before the archive is read, which may take long: a name that is taken is known at once.
    _check_out(out, overwrite=file.overwrite)
    config = None if config_path is None else FineTuneConfig.from_file(config_path)
    sent = None if config is None or config_path is None else _sent(config, config_path)
    archive = LoraArchive.open(path)
    health = archive.health(config)
    archive.export(
        out,
        program=file.program,
        base_model=file.base_model or (config.model_name if config else None),
        trigger=file.trigger,
        config=sent,
        # A digest is of a whole config: without the seed of that training it would name another one.
        digest=config.digest() if config and sent and "seed" in sent else None,
        overwrite=file.overwrite,
    )
    _tell(out, file.program, health=health, as_json=as_json)
    return Exit.DONE


def merge(
    paths: Sequence[Path],
    out: Path,
    file: WrittenFile,
    weights: Sequence[float],
    *,
    as_json: bool,
) -> Exit:
    """Write one LoRA that does what several do together, and say how to use it in each program."""
    _check_out(out, overwrite=file.overwrite)
    if weights and len(weights) != len(paths):
        message = (
            f"for {len(paths)} LoRAs --weight was given {len(weights)} times; give it once for each, or not at all"
        )
        raise UsageError(message, field="weight")
    archives = [LoraArchive.open(path) for path in paths]
    parts = [Part(archive, weight) for archive, weight in zip(archives, weights or [1.0] * len(paths), strict=True)]
    merge_parts(
        out, parts, program=file.program, base_model=file.base_model, trigger=file.trigger, overwrite=file.overwrite
    )
    _tell(out, file.program, health=LoraArchive.open(out).health(), as_json=as_json)
    return Exit.DONE


def _tell(out: Path, program: Program, *, health: Health, as_json: bool) -> None:
    """Print what is said about a written file, as it says it itself."""
    # Read anew: what is told is what the file says, not what was meant to be in it.
    written = LoraArchive.open(out)
    exported = Exported(
        path=out,
        program=program,
        modules=tuple(written.modules),
        family=written.family or family_said(written.metadata),
        base_model=base_model_said(written.metadata),
        trigger=trigger_said(written.metadata),
        health=health,
    )
    if as_json:
        print(json.dumps(export_facts(exported)))  # noqa: T201  # the command's output
    else:
        show_export(page_console(), exported)


def _check_out(out: Path, *, overwrite: bool) -> None:
    if out.suffix != ".safetensors":
        raise UsageError(f"{out} must end in .safetensors: programs see by the ending how to read it", field="out")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} is there already; choose another name, or give --overwrite", field="out")


def _sent(config: FineTuneConfig, path: Path) -> dict[str, Any]:
    """Return what is sent for a config, without the seed where the file leaves it open.

    A seed that is not given is drawn anew on every reading, so this one would be that of no training.
    """
    text = path.read_text(encoding="utf-8-sig")
    written = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    sent = config.effective().config.to_dict()
    return {name: value for name, value in sent.items() if name != "seed" or name in written}


def _norms(archive: LoraArchive) -> Norms | str:
    try:
        return archive.norms()
    except UsageError:
        return "This needs numpy: pip install 'crynux-async[archive]'"
    except ArchiveError as error:
        return str(error)  # every byte was verified: it is too large, or not in a node's order


def _facts(report: Report) -> dict[str, Any]:
    return {
        "path": str(report.archive.path),
        **attrs.asdict(report.summary),
        "healthy": report.health.ok,
        "family": report.archive.family,
        "strength": _strength_facts(report.health),
        "problems": _problem_facts(report.health),
        "asked_for": _asked_facts(report.config) if report.config else None,
        "dropped_by_diffusers": left_out(report.archive),
        "norms": _norm_facts(report.norms) if isinstance(report.norms, Norms) else None,
        "members": [_member_facts(member) for member in report.archive.members.values()],
    }


def _strength_facts(health: Health) -> dict[str, Any] | None:
    strength = health.strength
    if strength is None:
        return None
    return {"verdict": strength.verdict, "ratio": _number(strength.ratio), "action": strength.action}


def _problem_facts(health: Health) -> list[dict[str, str]]:
    return [{"code": str(problem.code), "message": problem.message} for problem in health.problems]


def _asked_facts(config: FineTuneConfig) -> dict[str, Any]:
    facts = config.to_dict()
    return {name: facts[name] for name in ("rank", "target_modules", "max_train_steps")}


def _norm_facts(norms: Norms) -> dict[str, Any]:
    blocks = {block: _number(norm) for block, norm in in_flow(norms.blocks)}
    return {"total": _number(norms.total), "blocks": blocks}


def _number(value: float) -> float | None:
    # JSON has no NaN.
    return value if math.isfinite(value) else None


def _member_facts(member: Member) -> dict[str, Any]:
    facts = {"name": member.name, "size_bytes": member.size_bytes, "packed_bytes": member.packed_bytes}
    return {**facts, "pickle": is_pickle(member.name)}
