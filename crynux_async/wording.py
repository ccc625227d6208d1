"""Words that texts for people share."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 step", "2,000 steps"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def unread(path: object, error: OSError | ValueError) -> str:
    """Return that a file that was asked for cannot be read, and why; it is named once.

    Args:
        path: The file.
        error: What came of reading or parsing it.
    """
    if isinstance(error, FileNotFoundError):
        return f"there is no file {path}"
    # The system's own text names the path again.
    return f"{path} cannot be read: {error.strerror if isinstance(error, OSError) else error}"
