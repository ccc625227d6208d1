"""Data sets: check, pack and publish a folder of images and captions the way the nodes read it.

``check`` says what a node would make of a folder or archive, ``pack`` makes the archive that works, and ``check_url``
says whether a node could load it from an address. Every problem has a stable code, listed in ``CODES``.

- ``problems``: every code; ``explanations``: what is behind it. ``report``: what ``check`` returns.
- Rules, each a plain function of what was read: ``layout_rules``, ``inner_rules`` (archives inside),
  ``metadata_rules``, ``record_rules`` (tables that hold images), ``caption_rules``, ``image_rules``, ``url_rules``. A
  new rule goes into one of them (captions: a line in ``RULES``), its code into ``problems`` and ``explanations``.
- What the rules judge: ``layout`` (which files are loaded), ``tables`` with ``json_tables`` and ``csv_tables``
  (metadata files), ``records`` (Parquet and Arrow files), ``matching`` (which row is whose), ``captions``, ``images``;
  of addresses ``hosts`` and ``links``; of what people have besides ``kohya``, ``text_encodings`` and
  ``loader_settings`` (README.md and its like).
- Files: ``archives``, ``members`` and ``inner_archives`` (what is in an archive), ``reading`` (reads each once, trusts
  none), ``contents`` (what the loader gets out of it all).
- ``checking``, ``packing`` with ``caption_sources``, ``sidecars`` and ``row_names``, ``url``: the three commands. Read
  ``checking`` first.

How nodes read is not ours to choose: names and patterns in ``layout``, ``tables`` and ``matching`` are those of the
``datasets`` library. ``tests/datasets/test_node.py`` compares what is said here with that library, in the versions that
nodes run, on generated data sets.

Names are loaded when they are first used: the advice on a config needs some modules from here, and not the rest.
"""

from typing import TYPE_CHECKING

from crynux_async.lazy import loader_of

if TYPE_CHECKING:
    from crynux_async.datasets.captions import CLIP_TOKENS, Caption, CaptionSource, estimated_tokens
    from crynux_async.datasets.checking import check
    from crynux_async.datasets.findings import Severity
    from crynux_async.datasets.packing import PackedDataset, pack
    from crynux_async.datasets.problems import CODES, DatasetError, DatasetProblem, ProblemCode
    from crynux_async.datasets.reading import Limits
    from crynux_async.datasets.report import DatasetReport, Spread
    from crynux_async.datasets.url import check_url
    from crynux_async.datasets.url_rules import UrlObservation, UrlReport, fresh_url, judge_url

_HOME_OF = {
    "CLIP_TOKENS": "captions",
    "CODES": "problems",
    "Caption": "captions",
    "CaptionSource": "captions",
    "DatasetError": "problems",
    "DatasetProblem": "problems",
    "DatasetReport": "report",
    "Limits": "reading",
    "PackedDataset": "packing",
    "ProblemCode": "problems",
    "Severity": "findings",
    "Spread": "report",
    "UrlObservation": "url_rules",
    "UrlReport": "url_rules",
    "check": "checking",
    "check_url": "url",
    "estimated_tokens": "captions",
    "fresh_url": "url_rules",
    "judge_url": "url_rules",
    "pack": "packing",
}

__all__ = [
    "CLIP_TOKENS",
    "CODES",
    "Caption",
    "CaptionSource",
    "DatasetError",
    "DatasetProblem",
    "DatasetReport",
    "Limits",
    "PackedDataset",
    "ProblemCode",
    "Severity",
    "Spread",
    "UrlObservation",
    "UrlReport",
    "check",
    "check_url",
    "estimated_tokens",
    "fresh_url",
    "judge_url",
    "pack",
]


__getattr__ = loader_of(__name__, _HOME_OF)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
