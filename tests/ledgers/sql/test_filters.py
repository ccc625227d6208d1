"""The end of the range of texts with a prefix."""

from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.ledgers.sql.filters import after_prefix

# Characters beside the edges of the range, and beside the surrogates, which are none.
characters = st.characters(exclude_categories=["Cs"]) | st.sampled_from("\0a\ud7ff\ue000\U0010fffe\U0010ffff")
texts = st.text(characters, max_size=4)


@settings(deadline=None)
@given(texts.filter(bool), texts)
def test_text_is_between_a_prefix_and_its_end_exactly_if_it_begins_so(prefix: str, text: str) -> None:
    for candidate in (text, prefix + text):
        end = after_prefix(prefix)
        is_between = candidate.encode() >= prefix.encode() and (end is None or candidate.encode() < end.encode())
        assert is_between is candidate.startswith(prefix)


def test_prefix_of_last_characters_alone_has_no_end() -> None:
    assert after_prefix("\U0010ffff\U0010ffff") is None
