"""What ``export`` says when the file is written: where it goes and how it is used, program by program."""

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import indent
from typing import Any

import attrs
from rich.text import Text

from crynux_async.archive import Health, Program
from crynux_async.archive.families import FAMILY_TITLES, Family
from crynux_async.archive.naming import DIFFUSERS_SINCE, PROGRAMS, passed_over
from crynux_async.cli.console import LiteralConsole
from crynux_async.cli.plain import one_line
from crynux_async.report.units import size
from crynux_async.wording import counted

_SHOWN = 4


@attrs.frozen(kw_only=True)
class Exported:
    """A file that was written, and what is to be said about it."""

    path: Path
    program: Program
    modules: tuple[str, ...]
    family: Family | None
    base_model: str | None
    trigger: str | None
    health: Health

    @property
    def programs(self) -> tuple[Program, ...]:
        """The programs that it is for."""
        return tuple(PROGRAMS) if self.program == "all" else (self.program,)

    @property
    def left_out(self) -> Mapping[Program, tuple[str, ...]]:
        """The modules that a program passes over, where there are any."""
        found = {program: passed_over(self.modules, program) for program in self.programs}
        return {program: modules for program, modules in found.items() if modules}


def export_facts(exported: Exported) -> dict[str, Any]:
    """Return what is said about a written file, for programs."""
    return {
        "path": str(exported.path),
        "file_bytes": exported.path.stat().st_size,
        "for": list(exported.programs),
        "family": exported.family,
        "base_model": exported.base_model,
        "trigger": exported.trigger,
        # Each module has two: down and up.
        "lora_tensors": 2 * len(exported.modules),
        "passed_over": {program: list(modules) for program, modules in exported.left_out.items()},
        "next": {program: _next(exported, program) for program in exported.programs},
        "problems": [{"code": str(each.code), "message": each.message} for each in exported.health.problems],
    }


def show_export(console: LiteralConsole, exported: Exported) -> None:
    """Print what is said about a written file, for people."""
    path = exported.path
    for problem in exported.health.problems:
        console.print_page(Text.assemble(("Warning  ", "bold yellow"), f"{problem.code}: {problem.message}"))
    about = f", {size(path.stat().st_size)}: {counted(len(exported.modules), 'module')}"
    family = f" for {FAMILY_TITLES[exported.family]}" if exported.family else ""
    console.print(Text.assemble("Wrote ", (one_line(str(path)), "bold"), about, family))
    for program in exported.programs:
        console.print()
        console.print_page(Text(_title(exported, program), style="bold"))
        console.print(Text(indent(_next(exported, program), "  ")))
        if modules := exported.left_out.get(program):
            console.print(Text(indent(_without(program, modules), "  "), style="yellow"))
    _show_remarks(console, exported)


def _show_remarks(console: LiteralConsole, exported: Exported) -> None:
    remarks = []
    if exported.trigger:
        remarks.append(f"Write in the prompt what it was trained on: {_visible(exported.trigger)}")
    if exported.base_model is None and "diffusers" in exported.programs:
        remarks.append("BASE_MODEL is the model that was trained; --base-model puts its name in the file.")
    if exported.family is None and "a1111" in exported.programs:
        remarks.append(
            "The layers that were trained do not tell Stable Diffusion 1.x from 2.x, and AUTOMATIC1111 takes the file "
            "for 1.x. If that is wrong, --base-model stabilityai/stable-diffusion-2-1 says so in the file."
        )
    for remark in remarks:
        console.print()
        console.print_page(Text(remark, style="dim"))


def _title(exported: Exported, program: Program) -> str:
    title = PROGRAMS[program].title
    if program == "diffusers" and exported.program == "all" and passed_over(exported.modules, "all"):
        return f"{title} {DIFFUSERS_SINCE} or later"
    return title


def _without(program: Program, modules: tuple[str, ...]) -> str:
    shown = ", ".join(modules[:_SHOWN])
    return f"Without {shown}: {PROGRAMS[program].remark}."


def _next(exported: Exported, program: Program) -> str:
    """Return what to do with a file in a program, in lines of at most 78 columns but for paths."""
    path = exported.path
    match program:
        case "comfyui":
            lines: Iterable[str] = (
                "Copy it to ComfyUI/models/loras and press R. Put the node Load LoRA between",
                "the checkpoint and the sampler, strength_model 1.0.",
            )
        case "a1111":
            lines = (
                "Copy it to stable-diffusion-webui/models/Lora and refresh the tab Lora.",
                f"Write in the prompt: <lora:{path.stem}:1>",
                *_hidden(exported.family),
            )
        case "kohya":
            file = shlex.quote(str(path))
            lines = (
                "Make images with it:",
                "  gen_img.py --network_module networks.lora \\",
                f"    --network_weights {file} ...",
                "Go on training from it:",
                "  train_network.py --network_module networks.lora --dim_from_weights \\",
                f"    --network_weights {file} ...",
            )
        case _:
            lines = (_loading(path, exported.base_model),)
    return "\n".join(lines)


def _hidden(family: Family | None) -> tuple[str, ...]:
    if family is None:
        return ()
    return (f"The tab shows it while a model of {FAMILY_TITLES[family]} is loaded.",)


def _loading(out: Path, base_model: str | None) -> str:
    """Return the lines of Python that load an exported file, without asking the network where it is."""
    model, folder, name = (
        _visible(json.dumps(text, ensure_ascii=False))
        for text in (base_model or "BASE_MODEL", str(out.parent), out.name)
    )
    return (
        "from diffusers import DiffusionPipeline\n"
        f"pipe = DiffusionPipeline.from_pretrained({model})\n"
        f"pipe.load_lora_weights({folder}, weight_name={name})"
    )


def _visible(text: str) -> str:
    """Return a text with what no terminal should be sent written out: a file may say it that somebody else made."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
