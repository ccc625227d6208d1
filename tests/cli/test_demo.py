"""The demo is a sweep with a page at its end, on an emulated bridge."""

import json
import re
from pathlib import Path

import pytest

from crynux_async import UsageError
from crynux_async.cli.demo import demo


async def test_demo_ends_with_five_models_one_failure_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await demo(tmp_path, as_json=True) == 0
    said = json.loads(capsys.readouterr().out)
    assert [trial["state"] for trial in said["trials"]] == ["done"] * 5 + ["failed"]
    assert said["refusals"] == 0
    assert len(list(tmp_path.glob("*.zip"))) == 5
    assert said["report"] == str(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'<tr class="(\w+)" data-trial=', page) == ["done"] * 5 + ["failed"]


async def test_demo_without_what_pages_need_says_what_would_be_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise UsageError("pages need jinja2")

    monkeypatch.setattr("crynux_async.sweeps.page.require_templates", missing)
    assert await demo(tmp_path, as_json=False) == 0
    out = capsys.readouterr().out
    assert "5 done, 1 failed." in out
    assert "crynux-async[report]" in out
    assert not (tmp_path / "report.html").exists()


async def test_demo_into_what_is_no_folder_is_refused_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UsageError) as error:
        await demo(tmp_path / "file" / "models", as_json=True)
    assert error.value.field == "report"
