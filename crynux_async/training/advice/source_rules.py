"""Rules about where the base model and the data set come from, by their names and addresses alone: ``CX1xx``."""

import functools
from collections.abc import Iterator
from urllib.parse import SplitResult, unquote, urlsplit

from crynux_async.datasets.archives import ENDINGS, ending_of
from crynux_async.datasets.hosts import is_private
from crynux_async.datasets.links import (
    Signature,
    explain_page,
    explain_signature,
    has_login,
    page_of,
    secrets_beside_signature,
    signature_of,
)
from crynux_async.training.advice.case import Case, in_words, shown
from crynux_async.training.advice.codes import Advice, advise
from crynux_async.training.base_models import name_fault, other_kind


def judge_model(case: Case) -> Iterator[Advice]:
    """Judge the base model by its name: nothing else is known of it here."""
    name = case.config.model_name
    # A name that nobody can have says nothing of what the model would be: one of the two is told.
    fault, other = name_fault(name, "model"), other_kind(name)
    if fault:
        yield advise("CX124", "model_name", f"{shown(name)} cannot be the name of a model on Hugging Face. {fault}")
    elif other:
        is_one = (
            "is a model of another kind" if other.is_certain else f"may be a model of another kind ({other.sign!r})"
        )
        text = (
            f"{shown(name)} {is_one}. The training code has one text encoder and a UNet of four channels; with "
            "anything else it stops at the first step."
        )
        yield advise("CX101", "model_name", text, severity=None if other.is_certain else "warning")
    if case.config.model_revision != "main":
        text = (
            f"Nodes load the base model by name and variant, without a revision: {case.config.model_revision!r} is "
            "probably not there, and the noise scheduler is the main revision's anyway."
        )
        yield advise("CX111", "model_revision", text)
    if case.config.model_variant is not None:
        text = (
            f"UNet and VAE must exist as {case.config.model_variant!r} files, and the text encoder without: a "
            "repository that has only one kind fails."
        )
        yield advise("CX112", "model_variant", text)


def judge_dataset(case: Case) -> Iterator[Advice]:
    """Judge where the data set comes from, without asking there."""
    # Of two that were given only the name is left here: no address is sent beside it.
    name, url = case.config.dataset_name, case.config.dataset_url
    if url is None:
        fault = name_fault(name or "", "data set")
        if fault:
            text = f"{shown(name)} cannot be the name of a data set on Hugging Face. {fault}"
            yield advise("CX125", "dataset_name", text)
        text = "Nodes load it without a login; one that is private, gated, scripted or without a train split fails."
        yield advise("CX121", "dataset_name", text)
        return
    of_file_and_host, signature, of_page = _judge_address(url)
    yield from of_file_and_host
    if signature is not None:
        yield _judge_signature(signature, case)
    yield from of_page
    text = (
        "Every round loads it from there. A node that has loaded this address before uses what it got then, without a "
        "word."
    )
    yield advise("CX120", "dataset_url", text)


# Thousands of configs of a sweep have one address.
@functools.lru_cache(maxsize=256)
def _judge_address(url: str) -> tuple[tuple[Advice, ...], Signature | None, tuple[Advice, ...]]:
    """Return what an address alone tells: of its file and its host, of a signature, and of a page."""
    parts = urlsplit(url)
    of_file_and_host = (*_judge_file(unquote(parts.path.rpartition("/")[2])), *_judge_host(parts))
    return of_file_and_host, signature_of(parts), tuple(_judge_page(parts))


def _judge_page(parts: SplitResult) -> Iterator[Advice]:
    page = page_of(parts)
    if page:
        yield advise("CX128", "dataset_url", explain_page(page), severity=None if page.is_certain else "warning")


def _judge_file(name: str) -> Iterator[Advice]:
    # A name without a dot is told by its first bytes, which nobody knows here.
    if "." in name and not ending_of(name):
        text = (
            f"By its name, nodes do not take {shown(name)} for an archive ({', '.join(ENDINGS)}), and load nothing "
            "else. Training stops before the first step, unless the server gives the file another name: if `dataset "
            "check-url` says so, send it with force."
        )
        yield advise("CX118", "dataset_url", text)


def _judge_host(parts: SplitResult) -> Iterator[Advice]:
    if is_private(parts.hostname or ""):
        text = (
            "The host of this address is this machine or a private network, which other people's machines cannot reach."
        )
        yield advise("CX119", "dataset_url", text)
    if has_login(parts):
        text = (
            "The user name and password in front of the host go to every node that takes part, and to whoever reads "
            "the task."
        )
        yield advise("CX126", "dataset_url", text)
    secrets = secrets_beside_signature(parts)
    if secrets:
        text = f"Its parameter {', '.join(secrets)} goes to every node that takes part, and is not a secret then."
        yield advise("CX126", "dataset_url", text)


def _judge_signature(signature: Signature, case: Case) -> Advice:
    text = explain_signature(signature)
    # Every round that is repeated loads the data set anew, the last one long after the first.
    longest = case.simulation.longest_failure
    if signature.seconds is not None and signature.seconds < longest:
        text = f"{text} The last try may begin up to {in_words(longest)} after the job was made."
    return advise("CX127", "dataset_url", text, severity="error" if signature.is_for_one_method else None)
