"""Invented validation images."""

import io

from PIL import Image

from crynux_async.emulator.relay.images import SIDE, picture, score


def test_picture_is_a_png_that_others_read() -> None:
    with Image.open(io.BytesIO(picture("a subject"))) as image:
        image.load()
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (SIDE, SIDE))


def test_equal_subjects_give_equal_pictures_and_scores() -> None:
    assert picture("a") == picture("a") != picture("b")
    assert score(["a", "b"]) == score(["a", "b"]) != score(["b", "a"])


def test_score_has_eight_bytes_for_each_image() -> None:
    assert len(bytes.fromhex(score(["a", "b", "c"])[2:])) == 24
