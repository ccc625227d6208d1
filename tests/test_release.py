"""What is built is fit to be published: the README's links work away from the repository."""

import re
import tomllib
from importlib.metadata import entry_points

import pytest

from hatch_build import readme_for_index
from tests.documents import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("[jobs](docs/jobs.md#retry)", "[jobs](https://forge.example/me/it/blob/v1.2.3/docs/jobs.md#retry)"),
        ("![a page](docs/page.png)", "![a page](https://forge.example/me/it/raw/v1.2.3/docs/page.png)"),
        ("[there](https://a.example/b)", "[there](https://a.example/b)"),
        ("[below](#quickstart)", "[below](#quickstart)"),
    ],
)
def test_link_of_the_readme_leads_to_the_files_of_its_version(written: str, shown: str) -> None:
    assert readme_for_index(f"see {written}.", url="https://forge.example/me/it/", version="1.2.3") == f"see {shown}."


def test_readme_without_a_project_address_has_no_link_that_leads_nowhere() -> None:
    shown = readme_for_index(README, url="", version="1.2.3")
    assert re.findall(r"\]\((?!https:|#)[^)]*\)", shown) == []
    assert '| run a sweep | `sweep.run(session, report="cats.html")` | sweep.py, sweep.toml | sweeps |' in shown


def test_every_python_that_is_promised_is_named() -> None:
    first = int(PROJECT["project"]["requires-python"].removeprefix(">=3."))
    named = [int(minor) for minor in re.findall(r":: 3\.(\d+)'", str(PROJECT["project"]["classifiers"]))]
    assert named == list(range(first, 15))


def test_plugin_of_pytest_is_known_to_it() -> None:
    assert [plugin.value for plugin in entry_points(group="pytest11", name="crynux-async")] == ["pytest_crynux_async"]
