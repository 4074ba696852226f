"""Defaults of `taming eval`: the newest samples, compared with the images that their codec was trained on."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from taming_cli.data.images import png_settings
from taming_cli.data.tokens.file import TokenFile
from taming_cli.errors import BadFileError, UsageError
from taming_cli.runtime.checkpoint import read_header
from taming_cli.runtime.run.folder import runs_below
from taming_cli.runtime.weights import sha256


class TrainedOn(NamedTuple):
    """The images that a codec was trained on, and the codec's file."""

    pictures: Path
    codec: Path


def newest_samples(root: Path = Path("runs")) -> Path:
    """The newest folder of samples. UsageError if there is none."""
    folders = samples_under(root)
    if not folders:
        raise UsageError(f"there are no samples under {root / 'sample'}; name the pictures to measure")
    return folders[0]


def samples_under(*roots: Path) -> list[Path]:
    """Folders of samples, newest first."""
    sheets = {sheet for root in roots for sheet in (root / "sample").glob("*/grid.png")}
    return [sheet.parent for sheet in sorted(sheets, key=lambda sheet: -sheet.stat().st_mtime_ns)]


def drawn_by(samples: Path) -> str:
    """The sha256 of the prior that drew a folder of samples, as its PNGs record it. ValueError if none does."""
    pictures = (path for path in sorted(samples.rglob("*.png")) if path.name != "grid.png")
    settings: dict[str, Any] = json.loads(next((png_settings(path) or "" for path in pictures), "") or "{}")
    if "prior_sha256" not in settings:
        raise ValueError("no picture in it records which prior drew it")
    return str(settings["prior_sha256"])


def trained_on(generated: Path, root: Path = Path("runs")) -> TrainedOn:
    """The training images that generated images imitate: those of the codec whose codes the prior learned.

    The PNG of a sample records the prior that drew it; a token file records its codec, or the prior that contains it.
    UsageError, asking for an explicit reference, if the chain cannot be followed.
    """
    try:
        if generated.suffix.lower() == ".h5":
            recorded = Path(TokenFile(generated).header.codec_path)
            return (
                _pictures_of(recorded) if read_header(recorded).format == "taming-codec" else training_images(recorded)
            )
        return training_images(_prior(generated, root))
    except (BadFileError, OSError, KeyError, ValueError) as error:
        raise UsageError(f"name the reference: the training pictures of {generated} are unknown ({error})") from error


def training_images(prior: Path) -> TrainedOn:
    """The training images of a prior's codec, found through its token files. UsageError if a file no longer exists."""
    try:
        return _pictures_of(Path(TokenFile(read_header(prior).about["tokens"][0]).header.codec_path))
    except (BadFileError, OSError, KeyError, ValueError) as error:
        raise UsageError(f"name the reference: the training pictures of {prior} are unknown ({error})") from error


def _prior(samples: Path, root: Path) -> Path:
    """The prior that drew a folder of samples, among the runs under `root`."""
    if not samples.is_dir():
        raise ValueError("it is not a folder of samples")
    prior_sha256 = drawn_by(samples)
    for run in runs_below(root, "train-prior"):
        for path in sorted(run.glob("checkpoints/*.safetensors")):
            if sha256(path) == prior_sha256:
                return path
    raise ValueError(f"its prior is in no run under {root}")


def _pictures_of(codec: Path) -> TrainedOn:
    pictures = [Path(path) for path in read_header(codec).about["images"]]
    if len(pictures) != 1 or not pictures[0].exists():
        raise ValueError(f"{codec} was trained on {', '.join(map(str, pictures)) or 'unnamed pictures'}")
    return TrainedOn(pictures[0], codec)
