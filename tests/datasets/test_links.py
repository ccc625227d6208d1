"""What an address says by itself."""

from urllib.parse import urlsplit

import pytest

from crynux_async.datasets.links import Page, has_login, page_of, secrets_beside_signature, signature_of
from crynux_async.datasets.url_rules import UrlObservation, judge_url

DRIVE = "https://drive.usercontent.google.com/download?id=1AbC-d_9&export=download&confirm=t"


@pytest.mark.parametrize(
    ("url", "direct"),
    [
        ("https://drive.google.com/file/d/1AbC-d_9/view?usp=sharing", DRIVE),
        ("https://drive.google.com/file/d/1AbC-d_9/edit", DRIVE),
        ("https://drive.google.com/a/org.example/file/d/1AbC-d_9/view", DRIVE),
        ("https://drive.google.com/open?id=1AbC-d_9", DRIVE),
        ("https://drive.google.com/uc?id=1AbC-d_9&export=download", DRIVE),
        ("https://drive.google.com/drive/folders/1AbC", ""),
        ("https://www.dropbox.com/s/abc/cats.zip?dl=0", "https://www.dropbox.com/s/abc/cats.zip?dl=1"),
        ("https://www.dropbox.com/s/abc/cats.zip", "https://www.dropbox.com/s/abc/cats.zip?dl=1"),
        (
            "https://www.dropbox.com/scl/fi/abc/cats.zip?rlkey=k&dl=0",
            "https://www.dropbox.com/scl/fi/abc/cats.zip?rlkey=k&dl=1",
        ),
        ("https://m.dropbox.com/s/abc/cats.zip?dl=0", "https://www.dropbox.com/s/abc/cats.zip?dl=1"),
        ("https://huggingface.co/me/cats/blob/main/a/b.zip", "https://huggingface.co/me/cats/resolve/main/a/b.zip"),
        (
            "https://huggingface.co/datasets/me/cats/blob/main/cats.zip?x=y#z",
            "https://huggingface.co/datasets/me/cats/resolve/main/cats.zip",
        ),
        ("https://huggingface.co/datasets/me/cats/tree/main", ""),
        ("https://github.com/me/cats/blob/main/cats.zip", "https://github.com/me/cats/raw/main/cats.zip"),
        ("https://github.com/me/cats", ""),
        ("https://github.com/me/cats/releases/tag/v1", ""),
        ("https://github.com/me/cats/releases/tag/data/v1", ""),
        ("https://github.com/me/cats/releases/latest", ""),
        ("https://github.com/me/cats/releases", ""),
        ("https://github.com/me/cats/tags/", ""),
        ("https://gist.github.com/me/0123456789abcdef0123456789abcdef", ""),
        ("https://gist.github.com/0123456789abcdef0123456789abcdef", ""),
        ("https://gist.github.com/me/0123456789abcdef0123456789abcdef/revisions", ""),
        ("https://www.kaggle.com/datasets/me/cats", ""),
        ("https://kaggle.com/datasets/me/cats/data?select=cats.zip", ""),
        ("https://www.kaggle.com/datasets/me/cats/download?datasetVersionNumber=1", ""),
        ("https://www.kaggle.com/competitions/cats/data", ""),
        ("https://gitlab.com/me/cats/-/blob/main/cats.zip", "https://gitlab.com/me/cats/-/raw/main/cats.zip"),
        ("https://archive.org/details/cats/cats.zip", "https://archive.org/download/cats/cats.zip"),
        ("https://mega.nz/file/abc#def", ""),
    ],
)
def test_page_of_a_file_has_the_files_own_address(url: str, direct: str) -> None:
    page = page_of(urlsplit(url))
    assert page is not None
    assert page.direct == direct


@pytest.mark.parametrize(
    "url",
    [
        DRIVE,
        "https://www.dropbox.com/s/abc/cats.zip?dl=1",
        "https://www.dropbox.com/s/abc/cats.zip?raw=1",
        "https://dl.dropboxusercontent.com/s/abc/cats.zip",
        "https://huggingface.co/datasets/me/cats/resolve/main/cats.zip",
        "https://raw.githubusercontent.com/me/cats/main/cats.zip",
        "https://github.com/me/cats/raw/main/cats.zip",
        "https://github.com/me/cats/archive/refs/heads/main.zip",
        "https://github.com/me/cats/releases/download/v1/cats.zip",
        "https://github.com/me/cats/files/1/cats.zip",
        "https://github.com/me/cats/releases/latest/download/cats.zip",
        "https://gist.github.com/me/0123456789abcdef/raw/cats.zip",
        "https://gist.github.com/me/0123456789abcdef/archive/fedcba9876543210.zip",
        "https://www.kaggle.com/api/v1/datasets/download/me/cats",
        "https://archive.org/download/cats/cats.zip",
        "https://a.example/blob/cats.zip",
        "https://download99.mediafire.com/x/cats.zip",
    ],
)
def test_address_of_a_file_is_no_page(url: str) -> None:
    assert page_of(urlsplit(url)) is None


def test_page_of_a_data_set_tells_its_name() -> None:
    assert page_of(urlsplit("https://hf.co/datasets/me/cats/")) == Page(host="Hugging Face", dataset_name="me/cats")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://b.s3.amazonaws.com/c.zip?X-Amz-Expires=600&X-Amz-Signature=s", (600, True)),
        ("https://b.s3.amazonaws.com/c.zip?AWSAccessKeyId=k&Signature=s&Expires=9", (None, True)),
        ("https://b.s3.cn-north-1.amazonaws.com.cn/c.zip?X-Amz-Expires=600&X-Amz-Signature=s", (600, True)),
        ("https://b.a.r2.cloudflarestorage.com/c.zip?X-Amz-Expires=600&X-Amz-Signature=s", (600, True)),
        ("https://r2.example/c.zip?x-amz-expires=600&x-amz-signature=s", (600, True)),
        ("https://s3.example/c.zip?AWSAccessKeyId=k&Signature=s&Expires=9", (None, True)),
        ("https://s3.example/c.zip?AWSAccessKeyId=k&sig=s", (None, False)),
        ("https://storage.googleapis.com/b/c.zip?X-Goog-Expires=7&X-Goog-Signature=s", (7, False)),
        ("https://b.blob.core.windows.net/c.zip?sp=r&se=2026-01-01&sig=s", (None, False)),
        ("https://d.cloudfront.net/c.zip?Expires=9&Signature=s&Key-Pair-Id=k", (None, False)),
        ("https://a.example/c.zip?X-Amz-Expires=600", None),
        ("https://a.example/c.zip?X-Amz-Expires=x&sig=", (None, False)),
    ],
)
def test_signature_tells_how_long_and_for_what(url: str, expected: tuple[int | None, bool] | None) -> None:
    found = signature_of(urlsplit(url))
    assert (found and (found.seconds, found.is_for_one_method)) == expected


def test_login_stands_in_front_of_the_host() -> None:
    assert has_login(urlsplit("https://me:x@a.example/c.zip"))
    assert has_login(urlsplit("https://me@a.example/c.zip"))
    assert not has_login(urlsplit("https://a.example/me:x@c.zip"))


def test_secret_beside_a_signature_is_told_from_it() -> None:
    assert secrets_beside_signature(urlsplit("https://a.example/c.zip?token=t&sig=s")) == ("token",)
    assert secrets_beside_signature(urlsplit("https://a.example/c.zip?X-Amz-Signature=s")) == ()


def test_check_url_says_of_a_page_and_a_signature_the_same() -> None:
    page = judge_url(
        UrlObservation(
            url="https://github.com/me/cats/blob/main/cats.zip", head_status=200, get_status=200, head=b"<html>"
        )
    )
    assert "https://github.com/me/cats/raw/main/cats.zip" in next(item.message for item in page if item.code == "CX366")
    signed = judge_url(UrlObservation(url="https://a.example/c.zip?sig=s", head_status=403))
    assert "CX365" in {item.code for item in signed}
