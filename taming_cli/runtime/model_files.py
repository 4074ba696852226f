"""Which file is meant wherever a model is named: the file itself, a run's folder, or the model of the package.

The model that comes with the package holds codecs of landscapes and of their label maps, and a prior on both;
`scripts/builtin` makes it, and its weights lie there in half precision.
"""

import logging
from pathlib import Path

import taming_cli
from taming_cli.errors import BadFileError

_log = logging.getLogger(__name__)
BUILTIN = "builtin"
"""Names the model wherever a model file is named."""


def path() -> Path:
    """Where the file is, whether it is there or not."""
    return Path(taming_cli.__file__).parent / "models" / "landscapes.safetensors"


MODELS = ("best.safetensors", "last.safetensors")
"""What a run keeps under `checkpoints/`, the one to prefer first."""


def named(file: Path) -> Path:
    """The model file that `file` means, wherever a model may be named.

    Of a run's folder, or of the `checkpoints` folder in it, that is the best model, else the last, which stderr then
    says. `builtin`, unless there is such a file, is the one that comes with the package. Anything else is what it is.
    BadFileError for a run that has saved no model.
    """
    if file == Path(BUILTIN) and not file.exists():
        return path()
    if not file.is_dir():
        return file
    folder = file if file.name == "checkpoints" else file / "checkpoints"
    found = next((folder / name for name in MODELS if (folder / name).is_file()), None)
    if found is not None:
        _log.warning("%s is a run's folder: its model is %s", file, found)
        return found
    if folder.is_dir() or (file / "metrics.jsonl").exists() or (file / "env.json").exists():
        raise BadFileError(
            f"{file} is the folder of a run that has saved no model ({folder / MODELS[1]}); let it train on"
        )
    return file


def recorded(init: str | None) -> str | None:
    """The path of a model to start from, as a run records it: good from any working directory. None stays None."""
    return str(named(Path(init)).resolve()) if init else init
