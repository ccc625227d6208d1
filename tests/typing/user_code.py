"""What users write, for type checkers: a line that ends in ``# fails`` must be an error, and no other line may be one.

Nothing here is run; ``test_user_code`` gives the file to mypy and to pyright.
"""

from pathlib import Path

from crynux_async import Session, Settings

KEY = "q3hXHA_8O0LuGJ1_tou4_KamMlQqAo-aYwyAIDttdmI="


def open_sessions(ledger: Path, settings: Settings) -> None:
    Session()
    Session(api_key=KEY)
    Session(api_key=None, rate_limit=20, ledger=ledger)
    Session(settings, ledger="jobs.db")
    Session(settings=settings)
    Session(rate_limt=20)  # fails
    Session(rate_limit="20")  # fails
    Session(api_key=b"key")  # fails
    Session(ledger=7)  # fails
    Session(KEY)  # fails


def make_settings(known: Settings) -> None:
    Settings()
    Settings(api_key=KEY, max_polls=8)
    Settings(api_key=known.api_key, rate_limit=2.5)
    Settings(proxy="http://user:pass@proxy:3128", trust_env=False)
    Settings(KEY)  # fails
    Settings(max_pols=8)  # fails
    Settings(max_polls="8")  # fails
    Settings(max_polls=None)  # fails
    Settings.load()
    Settings.load(environ={"CRYNUX_MAX_POLLS": "8"}, max_creates=None, api_key=KEY)
    Settings.load(max_pols=8)  # fails
    Settings.load(max_polls=[8])  # fails


def key_of(known: Settings) -> str:
    known.api_key.reveal()  # fails
    known.max_polls = 8  # fails
    return known.api_key.reveal() if known.api_key else known.key_id
