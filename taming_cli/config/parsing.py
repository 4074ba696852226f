"""Parse the JSON and TOML of files: any text gives a value or a ValueError, in time proportional to its length."""

import json
import re
from typing import Any

_LONG_KEY = re.compile(r"""^\s*\[{0,2}\s*[\w"'-]+(?:\s*\.\s*[\w"'-]+){64}""", re.MULTILINE)


def parse_json(text: str | bytes) -> Any:
    """As `json.loads`, with a ValueError for text that nests too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def parse_toml(text: str) -> dict[str, Any]:
    """As `tomllib.loads`, with a ValueError for text that nests too deeply, which takes quadratic time in keys."""
    import tomllib  # imported only where a file is read, since it takes time

    if _LONG_KEY.search(text):
        raise ValueError("it nests too deeply")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it nests too deeply") from None
