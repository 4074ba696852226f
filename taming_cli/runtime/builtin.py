"""The model that comes with the package: codecs of landscapes and of their label maps, and a prior on both.

`scripts/builtin` makes it; its weights lie there in half precision.
"""

from pathlib import Path

import taming_cli

BUILTIN = "builtin"
"""Names the model wherever a model file is named."""


def path() -> Path:
    """Where the file is, whether it is there or not."""
    return Path(taming_cli.__file__).parent / "models" / "landscapes.safetensors"


def named(file: Path) -> Path:
    """The file of that name; as `builtin`, unless there is such a file, the one that comes with the package."""
    return path() if file == Path(BUILTIN) and not file.exists() else file


def recorded(init: str | None) -> str | None:
    """The path of a model to start from, as a run records it: good from any working directory. None stays None."""
    return str(named(Path(init)).resolve()) if init else init
