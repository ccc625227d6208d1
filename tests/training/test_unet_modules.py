"""Which modules ``target_modules`` selects."""

import re

import pytest
from hypothesis import given, settings

from crynux_async.training.unet_modules import module_sizes, select
from tests.strategies import modules

ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")


def test_attention_layers_are_128_with_a_known_number_of_weights() -> None:
    selection = select(ATTENTION)
    assert (len(selection.trained), selection.attention_count, selection.weights_per_rank) == (128, 128, 199_296)
    assert (selection.unsuitable, selection.unmatched) == ((), ())


@pytest.mark.parametrize("pattern", ["all-linear", "ALL-LINEAR"])
def test_all_linear_is_every_linear_layer_and_no_convolution(pattern: str) -> None:
    selection = select(pattern)
    assert len(selection.trained) == 184
    assert not any("conv" in name or "proj_in" in name for name in selection.trained)
    assert selection.weights_per_rank / 199_296 == pytest.approx(2.1, abs=0.05)


def test_all_linear_in_a_list_is_a_name_like_any_other() -> None:
    assert select(("all-linear",)).trained == ()


def test_entry_of_a_list_is_the_end_of_a_name() -> None:
    assert len(select(("attn2.to_k",)).trained) == 16
    assert select(("mid_block.attentions.0.transformer_blocks.0.attn1.to_q",)).unmatched == ()
    assert select(("o_k",)).trained == ()


def test_text_is_a_regular_expression_for_the_whole_name() -> None:
    assert len(select(r".*attn2\.to_k").trained) == 16
    assert select("to_k") == select("not there").__class__(
        trained=(), unsuitable=(), unmatched=("to_k",), attention_count=0, weights_per_rank=0
    )


def test_text_that_is_no_regular_expression_selects_nothing() -> None:
    assert select("(to_k").unmatched == ("(to_k",)


def test_entry_without_a_match_among_others_is_named() -> None:
    selection = select(("to_k", "to_kk"))
    assert (len(selection.trained), selection.unmatched) == (32, ("to_kk",))


@pytest.mark.parametrize("entry", ["to_out", "attn1", "norm1", "ff", "ff.net.0", "mid_block", "to_out.1", "dropout"])
def test_entry_that_names_no_layer_is_unsuitable(entry: str) -> None:
    assert select((entry,)).unsuitable


def test_convolution_counts_every_cell_of_its_kernel() -> None:
    assert module_sizes()["conv_in"] == 4 * 9 + 320


@given(modules())
@settings(max_examples=60)
def test_every_selection_is_of_modules_that_are_there(target_modules: list[str] | str) -> None:
    selection = select(tuple(target_modules) if isinstance(target_modules, list) else target_modules)
    assert {*selection.trained, *selection.unsuitable} <= set(module_sizes())
    assert bool(selection.trained or selection.unsuitable or selection.unmatched)


def test_pattern_with_a_doubtful_set_gives_no_warning() -> None:
    pattern = "[[a]to_k"
    with pytest.warns(FutureWarning):
        re.compile(pattern)
    assert select(pattern).trained == ()
