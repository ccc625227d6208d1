"""Numbers as people write them."""


def duration(seconds: float) -> str:
    """Return seconds as people write them: 42 s, 3 min 20 s, 2 h 05 min."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def age(seconds: float) -> str:
    """Return how long ago something was: as a duration, and from two days on in days."""
    days = int(seconds // 86400)
    return duration(max(0.0, seconds)) if days < 2 else f"{days} d"


def size(count: int) -> str:
    """Return bytes as people write them: 9.1 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"
