"""Numbers, durations, file names and metadata as text."""

from typing import Any


def duration(seconds: float) -> str:
    """`75` -> `1:15`; `3700` -> `1:01:40`; `100000` -> `1d 3:46`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24}d {hours % 24}:{minutes:02d}"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def figure(value: float) -> str:
    """At least three significant digits, so that the width stays: `0.200`, `13.2`, `1024`."""
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def printable(text: str) -> str:
    """A file name that any terminal can print: its undecodable bytes are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def value_text(value: Any) -> str:
    """A value of a file's metadata: nested values on indented lines, long lists cut."""
    if value in ({}, [], None, ""):
        return "-"
    if isinstance(value, dict):
        return "\n" + "\n".join(
            f"    {name:<18} {value_text(inner).replace(chr(10), chr(10) + '    ')}" for name, inner in value.items()
        )
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(str, value[:8])) + (f", ... ({len(value)})" if len(value) > 8 else "")
    return f"{value:.5g}" if isinstance(value, float) else str(value)
