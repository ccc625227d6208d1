"""What a caption is, and how long it is for the model."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.datasets import estimated_tokens
from crynux_async.datasets.captions import caption_of

_TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=40)


@pytest.mark.parametrize(
    ("value", "caption"),
    [("a", "a"), ("", ""), (["a", "b"], ("a", "b")), ([], None), (["a", None], None), (5, None), (None, None)],
)
def test_only_text_and_filled_lists_of_text_are_captions(value: object, caption: object) -> None:
    assert caption_of(value) == caption


# Counts of the CLIP tokenizer itself, with the start and end marks.
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 2),
        ("a photo of a small brown dog running on the beach at sunset", 15),
        ("a drawing of a green pokemon with red eyes", 11),
        ("a close up of a cat wearing a tiny hat, studio lighting", 15),
        ("a blue and white bird with a long beak standing on a branch", 15),
        ("a watercolor painting of lavender fields in Provence during golden hour", 13),
    ],
)
def test_estimate_is_within_a_token_of_the_tokenizer_for_plain_english(text: str, tokens: int) -> None:
    assert abs(estimated_tokens(text) - tokens) <= 1


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("一个女孩站在海边", 21), ("Девушка в красном платье стоит у моря", 41), ("😀 happy 🌸🌸", 6)],
)
def test_estimate_is_within_a_quarter_of_the_tokenizer_for_other_scripts(text: str, tokens: int) -> None:
    assert abs(estimated_tokens(text) - tokens) <= tokens / 4


@settings(max_examples=200)
@given(_TEXT, _TEXT)
def test_estimate_never_shrinks_when_words_are_added(first: str, second: str) -> None:
    assert estimated_tokens(f"{first} {second}") >= max(estimated_tokens(first), estimated_tokens(second)) >= 2
