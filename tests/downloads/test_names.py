"""Names of archives: from templates, portable, numbered."""

import os
import unicodedata
from itertools import islice

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crynux_async.downloads.names import MAX_NAME_BYTES, archive_name, check_template, number_of, numbered_names
from crynux_async.errors import UsageError

FACTS: dict[str, str | int | None] = {
    "task_id": 7,
    "job_id": "j-1",
    "label": "cats",
    "model_name": "runwayml/stable-diffusion-v1-5",
}


# Templates


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{task_id}.zip", "7.zip"),
        ("{task_id}-{label}.zip", "7-cats.zip"),
        ("{model_name} {task_id}", "runwayml-stable-diffusion-v1-5-7.zip"),
        ("{{{label}}}.zip", "{cats}.zip"),
        ("results/{task_id}.zip", "results-7.zip"),
        ("..\\..\\{task_id}.ZIP", "7.zip"),
        ("{task_id}.zip.part", "7.zip.part.zip"),
        ("lora", "lora.zip"),
        ("", "archive.zip"),
        ("...", "archive.zip"),
        ("CON", "_CON.zip"),
        ("com1.{task_id}.zip", "_com1.7.zip"),
        ("console", "console.zip"),
        ("-rf {task_id}", "rf-7.zip"),
        ("a\x00b\nc\u202ed", "a-b-c-d.zip"),
        ('a<b>c:d"e|f?g*h', "a-b-c-d-e-f-g-h.zip"),
        ("Katze u\u0308ber", "Katze-\u00fcber.zip"),
    ],
)
def test_archive_name_from_template_is_portable(template: str, name: str) -> None:
    assert archive_name(template, **FACTS) == name


def test_archive_name_without_label_leaves_no_trace_of_it() -> None:
    assert archive_name("{task_id}-{label}.zip", task_id=7, label=None) == "7.zip"


def test_archive_name_with_unknown_placeholder_names_the_possible_ones() -> None:
    with pytest.raises(UsageError, match=r"\{seed\}.*\{job_id\}, \{label\}, \{model_name\}, \{task_id\}"):
        archive_name("{seed}.zip", **FACTS)


@pytest.mark.parametrize("template", ["{task_id", "task_id}", "{}", "{0}", "{label.upper}", "{label[0]}"])
def test_archive_name_from_nonsense_is_refused(template: str) -> None:
    with pytest.raises(UsageError):
        archive_name(template, **FACTS)


@pytest.mark.parametrize("template", ["{task_id:>1000000000}", "{label!r}", "{task_id:{label}}"])
def test_archive_name_with_formatting_is_refused(template: str) -> None:
    with pytest.raises(UsageError, match="a name alone"):
        archive_name(template, **FACTS)


@pytest.mark.parametrize("template", ["{task_id", "{tasks}", "{label!r}"])
def test_template_that_gives_no_name_is_refused_each_time_it_is_checked(template: str) -> None:
    check_template("{task_id}-{label}-{model}-{digest}-{job_id}.zip")
    for _ in range(2):
        with pytest.raises(UsageError):
            check_template(template)


@given(st.text(), st.text())
@example("x" * 300, "")
@example("\ud800", "\U0001f431" * 100)
@example("NUL", "\u2028")
def test_archive_name_of_anything_is_safe_everywhere(label: str, model_name: str) -> None:
    name = archive_name("{label}{model_name}", label=label, model_name=model_name)
    stem = name.removesuffix(".zip")
    assert len(name.encode()) <= MAX_NAME_BYTES
    assert name != stem
    assert name == os.path.basename(name) == unicodedata.normalize("NFC", name)
    assert stem
    assert stem == stem.strip(" .-")
    assert not set(name) & set('<>:"/\\|?*')
    assert all(character.isprintable() or unicodedata.category(character) == "Cn" for character in name)
    assert stem.partition(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT9"}


# Numbers


@given(st.text(), st.integers(1, 50))
@example("lora-2", 2)
@example("7-2-2", 1)
@example("\u00fc" * 300, 12)
def test_number_of_finds_what_numbered_names_gave(label: str, number: int) -> None:
    name = archive_name("{label}", label=label)
    assert number_of(next(islice(numbered_names(name), number - 1, None)), name) == number


@pytest.mark.parametrize(
    "found", ["8.zip", "7-1.zip", "7-02.zip", "7-0.zip", "7-x.zip", "7-\u0662.zip", "7-2.ZIP", "7", ""]
)
def test_number_of_another_name_is_none(found: str) -> None:
    assert number_of(found, "7.zip") is None


def test_number_of_a_name_with_endless_digits_is_none() -> None:
    assert number_of(f"7-{'9' * 10_000}.zip", "7.zip") is None
