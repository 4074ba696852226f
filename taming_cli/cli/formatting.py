"""Numbers, durations, file names and metadata as text."""

import re
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


_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, marks of direction, and lone surrogates."""


def printable(text: str) -> str:
    r"""Text that cannot control a terminal: characters that would are escaped, as `\u001b`, which JSON reads as well.

    Names of files and classes may come from strangers. Newlines are escaped too, since one could forge a line.
    """
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def value_text(value: Any) -> str:
    """A value of a file's metadata: nested values on indented lines, long lists cut."""
    if value in ({}, [], None, ""):
        return "-"
    if isinstance(value, dict):
        return "\n" + "\n".join(
            f"    {printable(str(name)):<18} {value_text(inner).replace(chr(10), chr(10) + '    ')}"
            for name, inner in value.items()
        )
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(printable(str(each)) for each in value[:8]) + (
            f", ... ({len(value)})" if len(value) > 8 else ""
        )
    return f"{value:.5g}" if isinstance(value, float) else printable(str(value))
