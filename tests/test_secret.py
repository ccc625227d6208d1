"""``Secret``: shows itself nowhere, and is found in texts that others write."""

import pytest

from crynux_async.secret import Secret, mask_credentials

KEY = "q3hXHA_8O0LuGJ1_tou4_KamMlQqAo-aYwyAIDttdmI="


def test_secret_masks_itself_wherever_it_stands_in_a_text() -> None:
    assert Secret("abc").mask("abc and xabcx") == "*** and x***x"


@pytest.mark.parametrize(
    "shown",
    [
        KEY.lower(),
        KEY.replace("=", "\\u003D").replace("-", "\\u002d"),  # JSON, as Go escapes it
        KEY.replace("=", "%3d").replace("_", "%5F"),  # an address
        KEY.replace("=", "&#61;").replace("-", "&#x2d;"),  # HTML
        KEY.replace("_", "\\_"),  # Markdown, and some logs
    ],
)
def test_secret_is_masked_as_others_write_it(shown: str) -> None:
    assert Secret(KEY).mask(f"Bearer {shown}, twice: {shown}") == "Bearer ***, twice: ***"


def test_sign_that_html_escapes_is_masked_as_its_entity() -> None:
    assert Secret("a&b").mask("a&amp;b and a&b") == "*** and ***"


@pytest.mark.parametrize("near", [KEY[:-2], KEY.replace("_", "x"), f"{KEY[:20]} {KEY[20:]}"])
def test_text_without_the_secret_is_left_as_it_is(near: str) -> None:
    assert Secret(KEY).mask(near) == near


def test_empty_secret_masks_nothing() -> None:
    assert Secret("").mask("abc") == "abc"


def test_secrets_are_equal_by_text_and_only_to_secrets() -> None:
    assert Secret("a") == Secret("a")
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert Secret("a") != "a"
    assert (bool(Secret("")), bool(Secret("a"))) == (False, True)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://user:pass@proxy.example:3128", "http://***@proxy.example:3128"),
        ("postgresql://me:p@ss@db.example/jobs", "postgresql://***@db.example/jobs"),
        ("https://bridge.example/a@b", "https://bridge.example/a@b"),
    ],
)
def test_address_is_shown_without_its_user_and_password(address: str, shown: str) -> None:
    assert mask_credentials(address) == shown
