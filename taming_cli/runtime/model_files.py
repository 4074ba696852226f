"""Names of models: a model file, the folder of a run, or `builtin`.

The built-in model comes with the package. It holds codecs of landscapes and of their label maps, and a prior on both,
in half precision; `scripts/builtin` creates it.
"""

import logging
from pathlib import Path

import taming_cli
from taming_cli.errors import BadFileError

_log = logging.getLogger(__name__)
BUILTIN = "builtin"
"""The name of the built-in model wherever a model file may be named."""


def path() -> Path:
    """The path of the built-in model, which need not exist."""
    return Path(taming_cli.__file__).parent / "models" / "landscapes.safetensors"


MODELS = ("best.safetensors", "last.safetensors")
"""Model files under a run's `checkpoints/`, in order of preference."""


def named(file: Path) -> Path:
    """The model file that `file` names.

    For the folder of a run, or its `checkpoints` folder, that is the best model, or else the last one, and a message
    is logged. `builtin` is the model that comes with the package, unless there is a file of that name. Any other path
    is returned unchanged. BadFileError for a run that has saved no model.
    """
    if file == Path(BUILTIN) and not file.exists():
        return path()
    if not file.is_dir():
        return file
    folder = file if file.name == "checkpoints" else file / "checkpoints"
    model = next((folder / name for name in MODELS if (folder / name).is_file()), None)
    if model is not None:
        _log.warning("%s is the folder of a run; using its model %s", file, model)
        return model
    if folder.is_dir() or (file / "metrics.jsonl").exists() or (file / "env.json").exists():
        raise BadFileError(
            f"{file} is the folder of a run that has not saved a model yet ({folder / MODELS[1]}); resume its training"
        )
    return file


def recorded(init: str | None) -> str | None:
    """The path of a model to start from, as a run records it: valid from any working directory. None stays None."""
    return str(named(Path(init)).resolve()) if init else init
