"""Numbers in words, for people."""


def duration(seconds: float) -> str:
    """5 s, 3:20 or 12:03:20."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(count: object, thing: str) -> str:
    """Such as "1 run", "2 runs" or "0-2 runs"."""
    return f"{count} {thing}{'' if str(count) == '1' else 's'}"
