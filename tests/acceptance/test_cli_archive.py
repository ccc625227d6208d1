"""``crynux-async inspect`` and ``export``: what they print, write and exit with."""

import ast
import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from crynux_async.archive import LoraArchive
from crynux_async.cli.app import make_app
from crynux_async.emulator import Emulator
from crynux_async.training.config import FineTuneConfig
from tests.archive_files import RESULT, UNFINISHED, members, pair, write_zip
from tests.command_line import environment, run_cli

pytestmark = pytest.mark.real_time

CONFIG = """
model_name = "crynux-ai/stable-diffusion-v1-5"
dataset_url = "https://example.com/pictures.zip"
rank = 4
max_train_steps = 10
lr_warmup_steps = 0
timeout = 1800
"""

MIXED = {
    **pair("down_blocks.0.attentions.0.proj_in", style="lora_A lora_B"),
    **pair("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k"),
    **pair("mid_block.attentions.0.transformer_blocks.0.attn1.to_k"),
}


@pytest_asyncio.fixture
async def bridge() -> AsyncIterator[Emulator]:
    async with Emulator(speed=1000, rate_limit=60, unet="tiny") as emulator:
        yield emulator


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(CONFIG)
    return path


Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command, run in this process, in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            make_app()([*map(str, arguments)])
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, *capsys.readouterr()

    return call


async def process(folder: Path, *arguments: str | Path, **more: str) -> tuple[int, str, str]:
    return await run_cli(*map(str, arguments), env=environment(None, **more), cwd=folder)


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def strict(text: str) -> Any:
    return json.loads(text, parse_constant=no_constant)


def header(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    found: dict[str, Any] = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return found


async def test_inspect_of_a_good_archive_is_a_page_of_80_columns(tmp_path: Path) -> None:
    code, out, err = await process(tmp_path, "inspect", RESULT)
    assert (code, err) == (0, "")
    first, *page = out.splitlines()
    assert first.startswith(str(RESULT))
    assert max(map(len, page[:-1])) <= 80
    said = " ".join(out.split())
    assert "rank 4" in said
    assert "modules to_k, to_out.0, to_q, to_v" in said
    assert "steps 11, finished" in said
    assert "Health good" in said
    assert "mid_block █" in said
    assert "optimizer.bin 397.1 kB optimizer state (pickle)" in said


def test_inspect_says_the_same_to_programs(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("inspect", RESULT, "--json")
    facts = strict(out)
    norms = LoraArchive.open(RESULT).norms()
    assert code == 0
    assert (facts["rank"], facts["modules"], facts["tensors"], facts["dtype"]) == (4, 128, 256, "F32")
    assert (facts["global_step"], facts["finished"], facts["file_bytes"]) == (11, True, 317_253)
    assert (facts["healthy"], facts["problems"], facts["asked_for"], facts["dropped_by_diffusers"]) == (
        True,
        [],
        None,
        0,
    )
    assert facts["norms"]["blocks"] == pytest.approx(dict(norms.blocks))
    assert facts["norms"]["total"] == pytest.approx(norms.total)
    pickles = {member["name"] for member in facts["members"] if member["pickle"]}
    assert pickles == {"optimizer.bin", "scheduler.bin", "random_states_0.pkl"}


@pytest.mark.parametrize("condition", ["untrained", "nan"])
async def test_inspect_of_a_worthless_model_says_why_and_exits_1(
    cli: Cli, condition: str, bridge: Emulator, config: Path, tmp_path: Path
) -> None:
    train = ("run", "job.toml", "--set", f"model_name=x/{condition}", "--name", "a.zip")
    code, _, err = await run_cli(*train, env=environment(bridge), cwd=tmp_path)
    assert code == 0, err
    code, out, _ = cli("inspect", "a.zip", "--config", config)
    assert code == 1
    assert f"1 problem\n  {condition}  " in out
    code, out, _ = cli("inspect", "a.zip", "--json")
    facts = strict(out)
    assert (code, [problem["code"] for problem in facts["problems"]]) == (1, [condition])
    assert facts["norms"]["total"] == (0.0 if condition == "untrained" else None)


def test_inspect_with_the_config_it_was_made_of_agrees(cli: Cli, config: Path, tmp_path: Path) -> None:
    code, out, _ = cli("inspect", RESULT, "--config", config)
    assert code == 0
    assert "4, as asked for" in out
    assert "nothing contradicts the config" in out


def test_inspect_with_another_config_names_every_difference(cli: Cli, config: Path, tmp_path: Path) -> None:
    config.write_text(CONFIG.replace("rank = 4", 'rank = 16\ntarget_modules = ["to_k", "conv1"]'))
    code, out, _ = cli("inspect", UNFINISHED, "--config", config, "--json")
    facts = strict(out)
    codes = {problem["code"] for problem in facts["problems"]}
    assert (code, codes) == (1, {"rank", "modules_missing", "modules_extra", "steps_short", "unfinished"})
    assert facts["asked_for"] == {"rank": 16, "target_modules": ["to_k", "conv1"], "max_train_steps": 10}
    _, out, _ = cli("inspect", UNFINISHED, "--config", config)
    assert all(code in out for code in codes)
    assert "asked for: 16" in out


def test_inspect_of_mixed_names_says_what_diffusers_would_leave_out(cli: Cli, tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", members(MIXED))
    code, out, _ = cli("inspect", "a.zip")
    assert code == 0
    assert "diffusers leaves 4 of the 6 tensors out" in " ".join(out.split())


async def test_inspect_without_numpy_says_how_to_get_the_norms(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError")
    without = {"PYTHONPATH": str(tmp_path)}
    code, out, err = await process(tmp_path, "inspect", RESULT, **without)
    assert (code, err) == (0, "")
    assert "pip install 'crynux-async[archive]'" in out
    _, out, _ = await process(tmp_path, "inspect", RESULT, "--json", **without)
    assert strict(out)["norms"] is None


async def test_inspect_on_a_terminal_without_unicode_draws_with_what_there_is(tmp_path: Path) -> None:
    code, out, err = await process(tmp_path, "inspect", RESULT, PYTHONIOENCODING="ascii")
    assert (code, err) == (0, "")
    assert "####" in out


def test_inspect_of_a_diverged_model_says_so_and_cuts_no_number_off(cli: Cli, tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", members(pair(rank=1, down=[20_037.0], up=[1.0])))
    code, out, _ = cli("inspect", "a.zip")
    assert code == 1
    assert "diverged" in out
    assert "20,037" in out
    assert "lower learning_rate" in " ".join(out.split())
    _, out, _ = cli("inspect", "a.zip", "--json")
    assert strict(out)["strength"]["verdict"] == "diverged"


def test_inspect_of_a_bare_file_says_what_it_is(cli: Cli, tmp_path: Path) -> None:
    cli("export", RESULT, "out.safetensors")
    code, out, _ = cli("inspect", "out.safetensors")
    assert code == 0
    assert "a LoRA file in kohya's names" in out
    assert "Members" not in out
    _, out, _ = cli("inspect", "out.safetensors", "--json")
    facts = strict(out)
    assert (facts["kind"], facts["modules"], facts["healthy"], facts["members"]) == ("kohya", 128, True, [])


def test_inspect_and_export_open_no_pickle(cli: Cli, tmp_path: Path) -> None:
    trap = b"cos\nsystem\n(S'touch sprung'\ntR."
    write_zip(tmp_path / "a.zip", {**members(), "optimizer.bin": trap, "evil.pkl": trap})
    assert cli("inspect", "a.zip")[0] == 0
    assert cli("export", "a.zip", "a.safetensors")[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "a.safetensors"}


@pytest.mark.parametrize("command", [("inspect", "a.zip"), ("export", "a.zip", "a.safetensors")], ids="-".join)
def test_archive_that_is_cut_short_cannot_be_read_and_exits_5(
    cli: Cli, command: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "a.zip").write_bytes(RESULT.read_bytes()[:-1000])
    code, out, err = cli(*command, "--json")
    assert (code, strict(out)["error"]) == (5, "ArchiveError")
    assert "a.zip" in err
    assert "Traceback" not in err
    assert not (tmp_path / "a.safetensors").exists()


def test_inspect_of_damaged_optimizer_state_exits_5(cli: Cli, tmp_path: Path) -> None:
    content = bytearray(RESULT.read_bytes())
    member = LoraArchive.open(RESULT).members["optimizer.bin"]
    content[member.offset_bytes + member.packed_bytes // 2] ^= 0x55
    (tmp_path / "a.zip").write_bytes(content)
    code, _, err = cli("inspect", "a.zip")
    assert code == 5
    assert "damaged" in err


def test_inspect_with_a_config_that_is_wrong_exits_2(cli: Cli, config: Path, tmp_path: Path) -> None:
    config.write_text(CONFIG.replace("rank", "rnak"))
    code, out, err = cli("inspect", RESULT, "--config", config)
    assert (code, out) == (2, "")
    assert "did you mean rank" in err


async def test_export_writes_the_file_and_says_how_to_load_it(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", members(MIXED))
    (tmp_path / "my models").mkdir()
    code, out, err = await process(
        tmp_path, "export", "a.zip", "my models/out.safetensors", "--base-model", "some/model"
    )
    assert (code, err) == (0, "")
    found = header(tmp_path / "my models" / "out.safetensors")
    assert found.pop("__metadata__")["base_model"] == "some/model"
    assert len(found) == 9
    assert all(name.endswith((".lora_down.weight", ".lora_up.weight", ".alpha")) for name in found)
    lines = [line.strip() for line in out.splitlines() if line.startswith("  pipe")]
    calls = [call for call in ast.walk(ast.parse("\n".join(lines))) if isinstance(call, ast.Call)]
    texts = [[ast.literal_eval(value) for value in (*c.args, *(k.value for k in c.keywords))] for c in calls]
    assert texts == [["some/model"], ["my models", "out.safetensors"]]
    assert "weight_name=" in out


def test_export_without_a_base_model_says_that_it_is_not_on_record(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("export", RESULT, "out.safetensors")
    assert code == 0
    assert "--base-model" in out
    assert "base_model" not in header(tmp_path / "out.safetensors")["__metadata__"]


def test_export_with_a_config_records_what_was_sent(cli: Cli, config: Path, tmp_path: Path) -> None:
    config.write_text(CONFIG + "seed = 42\n")
    code, out, _ = cli("export", RESULT, "out.safetensors", "--config", config, "--json")
    facts, texts = strict(out), header(tmp_path / "out.safetensors")["__metadata__"]
    recorded = json.loads(texts["training_config"])
    assert (code, facts["base_model"]) == (0, "crynux-ai/stable-diffusion-v1-5")
    assert texts["config_digest"] == FineTuneConfig.from_file(config).digest()
    assert (recorded["seed"], recorded["lr_warmup_steps"]) == (42, 1)


def test_export_with_a_config_without_a_seed_makes_none_up(cli: Cli, config: Path, tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        code, _, err = cli("export", RESULT, name, "--config", config)
        assert (code, err) == (0, "")
    texts = header(tmp_path / "a.safetensors")["__metadata__"]
    assert "seed" not in json.loads(texts["training_config"])
    assert "config_digest" not in texts
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


SAYS = {
    "diffusers": "pipe.load_lora_weights(",
    "comfyui": "ComfyUI/models/loras",
    "a1111": "<lora:out:1>",
    "kohya": "--network_weights out.safetensors",
}


@pytest.mark.parametrize("program", SAYS)
def test_export_for_one_program_says_what_to_do_in_that_one(cli: Cli, program: str, tmp_path: Path) -> None:
    code, out, _ = cli("export", RESULT, "out.safetensors", "--for", program)
    assert code == 0
    assert {name for name, words in SAYS.items() if words in out} == {program}
    names = header(tmp_path / "out.safetensors").keys() - {"__metadata__"}
    prefix, count = ("unet.", 2) if program == "diffusers" else ("lora_unet_", 3)
    assert len(names) == count * 128
    assert all(name.startswith(prefix) for name in names)


def test_export_for_all_says_what_to_do_in_each(cli: Cli) -> None:
    code, out, _ = cli("export", RESULT, "out.safetensors", "--trigger", "sks dog")
    assert code == 0
    assert all(words in out for words in SAYS.values())
    assert "what it was trained on: sks dog" in out
    _, out, _ = cli("export", RESULT, "out.safetensors", "--overwrite", "--json")
    facts = strict(out)
    assert (facts["for"], facts["passed_over"]) == (list(SAYS), {})
    assert all(words in facts["next"][program] for program, words in SAYS.items())


def test_export_says_which_modules_a_program_passes_over(cli: Cli, tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", members({**MIXED, **pair("time_embedding.linear_1", style="lora_A lora_B")}))
    _, out, _ = cli("export", "a.zip", "out.safetensors")
    assert "diffusers 0.41 or later" in out
    assert "Without time_embedding.linear_1" in out
    _, out, _ = cli("export", "a.zip", "b.safetensors", "--for", "comfyui", "--json")
    assert strict(out)["passed_over"] == {}
    _, out, _ = cli("export", "a.zip", "c.safetensors", "--for", "kohya", "--json")
    assert strict(out)["passed_over"] == {"kohya": ["time_embedding.linear_1"]}


def test_merge_writes_one_file_with_the_weights_that_were_given(cli: Cli, tmp_path: Path) -> None:
    both = ("merge", RESULT, UNFINISHED, "--out", "out.safetensors")
    code, out, err = cli(*both, "--weight", "0.5", "--weight", "-0.25")
    assert (code, err) == (0, "")
    assert all(words in out for words in SAYS.values())
    merged = LoraArchive.open(tmp_path / "out.safetensors")
    assert (merged.rank, len(merged.modules)) == (8, 128)
    assert [part["weight"] for part in json.loads(merged.metadata["merged_from"])] == [0.5, -0.25]
    code, _, err = cli(*both, "--weight", "0.5", "--overwrite")
    assert (code, "give it once for each" in " ".join(err.split())) == (2, True)
    code, out, _ = cli(*both, "--overwrite", "--json", "--for", "diffusers")
    assert (code, strict(out)["for"]) == (0, ["diffusers"])


def test_merge_of_one_alone_exits_2(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("merge", RESULT, "--out", "out.safetensors")
    assert code == 2
    assert "at least two" in err


def test_export_replaces_a_file_only_when_asked_to(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"precious")
    code, _, err = cli("export", RESULT, out.name)
    assert (code, out.read_bytes()) == (2, b"precious")
    assert "--overwrite" in err
    code, _, _ = cli("export", RESULT, out.name, "--overwrite")
    assert code == 0
    assert len(header(out)) == 1 + 3 * 128


def test_export_under_a_name_that_programs_would_unpickle_exits_2(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("export", RESULT, "out.bin")
    assert code == 2
    assert ".safetensors" in err
    assert not (tmp_path / "out.bin").exists()


def test_export_of_an_unfinished_archive_warns(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("export", UNFINISHED, "out.safetensors")
    assert code == 0
    assert out.startswith("Warning  unfinished")
    _, out, _ = cli("export", UNFINISHED, "out.safetensors", "--overwrite", "--json")
    assert [problem["code"] for problem in strict(out)["problems"]] == ["unfinished"]


async def test_example_runs_as_it_is_with_the_emulator(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "examples" / "inspect_and_export.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(path), "--emulator", cwd=tmp_path, env=environment(), stdout=PIPE, stderr=PIPE
    )
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert "healthy" in out.decode()
    (file,) = (tmp_path / "models").glob("*.safetensors")
    assert header(file)["__metadata__"]["rank"] == "4"
    assert len(header(file)) == 1 + 3 * (16 + 32 + 32)


@pytest.mark.parametrize("program", ["all", "diffusers", "comfyui", "a1111", "kohya"])
def test_export_says_what_to_do_in_80_columns_and_of_its_program_alone(cli: Cli, program: str) -> None:
    code, out, err = cli("export", RESULT, "out.safetensors", "--for", program)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert ("AUTOMATIC1111 takes the file" in " ".join(out.split())) == (program in ("all", "a1111"))
    assert ("BASE_MODEL" in out) == (program in ("all", "diffusers"))


def test_what_a_file_names_is_told_when_it_is_exported_again(cli: Cli) -> None:
    cli("export", RESULT, "a.safetensors", "--trigger", "sks cat", "--base-model", "stabilityai/stable-diffusion-2-1")
    code, out, _ = cli("export", "a.safetensors", "b.safetensors")
    assert code == 0
    assert 'from_pretrained("stabilityai/stable-diffusion-2-1")' in out
    assert "trained on: sks cat" in out
    assert "Stable Diffusion 2.x is loaded" in out


def test_what_a_file_says_reaches_no_terminal_as_a_command(cli: Cli, tmp_path: Path) -> None:
    odd = {"base_model": "a\x1b[31m/\x9b1mb", "trigger": "red\x1b]0;x\x07\u202ecat"}
    path = LoraArchive.open(RESULT).export(tmp_path / "a.safetensors", **odd)
    code, out, _ = cli("export", path, "b.safetensors")
    assert code == 0
    assert "trained on: red\\x1b]0;x\\x07\\u202ecat" in out
    assert all(char.isprintable() for char in out.replace("\n", ""))


@pytest.mark.parametrize(("program", "is_told"), [("all", False), ("diffusers", True)])
def test_inspect_of_a_bare_file_leads_to_export_only_where_that_helps(cli: Cli, program: str, is_told: bool) -> None:
    cli("export", RESULT, "a.safetensors", "--for", program)
    code, out, _ = cli("inspect", "a.safetensors")
    assert (code, "Next: crynux-async export a.safetensors a-all.safetensors" in out) == (0, is_told)
