"""Defaults of `taming eval`: the newest samples, the images that their codec was trained on, and the tokens that their
prior was trained on."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from taming_cli.config.fields import from_dict
from taming_cli.config.parsing import parse_json
from taming_cli.config.prior import PriorTrainConfig, recorded_prior
from taming_cli.data.images import png_settings
from taming_cli.data.tokens.file import TokenFile
from taming_cli.errors import BadFileError, UsageError
from taming_cli.prior.batches import TokenSet
from taming_cli.prior.train import COMMAND as TRAIN_PRIOR
from taming_cli.runtime.checkpoint import read_header
from taming_cli.runtime.run.folder import read_settings, runs_below
from taming_cli.runtime.weights import sha256


class TrainedOn(NamedTuple):
    """The images that a codec was trained on, and the codec's file."""

    pictures: Path
    codec: Path


class Learned(NamedTuple):
    """A prior's `model`, and the samples of token files that it was trained on, and those that were held out: files and
    row numbers."""

    model: Path
    training: Sequence[tuple[Path, Sequence[int]]]
    held_out: Sequence[tuple[Path, Sequence[int]]]


def model_of(run: Path) -> Path:
    """The best model of a run, or else its last. UsageError if it has none."""
    for name in ("best", "last"):
        if (path := run / "checkpoints" / f"{name}.safetensors").exists():
            return path
    raise UsageError(f"{run} holds no model yet; train it first")


def learned_by(run: Path) -> Learned:
    """What the prior of a run was trained on. BadFileError for damaged files, UsageError for missing ones."""
    settings = read_settings(run)
    place = str(run / "config.json")
    train = from_dict(PriorTrainConfig, settings["config"]["train"], place)
    paths = [Path(path) for path in settings["inputs"]]
    tokens = TokenSet(paths, kinds=train.cond, level=recorded_prior(settings["config"]["prior"], place).level)
    parts = []
    for rows in tokens.split(train.held):
        of_files = [
            np.sort(rows[(rows >= start) & (rows < end)] - start).tolist()
            for start, end in zip(tokens.starts[:-1], tokens.starts[1:], strict=True)
        ]
        parts.append([(path, own) for path, own in zip(paths, of_files, strict=True) if own])
    return Learned(model_of(run), *parts)


def prior_run(path: Path) -> Path | None:
    """The run of a prior that is named by its folder or by a model file in it; None for any other path."""
    run = path.parent.parent if path.suffix == ".safetensors" else path
    if not (run / "config.json").is_file() or read_settings(run)["command"] != TRAIN_PRIOR:
        return None
    return run


def run_that_drew(samples: Path, root: Path = Path("runs")) -> Path:
    """The run of the prior that drew a folder of samples. UsageError if it is not among the runs under `root`."""
    try:
        return _prior(samples, root).parent.parent
    except (BadFileError, OSError, ValueError) as error:
        raise UsageError(
            f"name the training pictures, and others with --held-out: those of {samples} are unknown ({error})"
        ) from error


def samples_of(run: Path) -> Path | None:
    """The newest folder of samples drawn by a run's prior, among the default sample folders."""
    models = {sha256(path) for path in (run / "checkpoints").glob("*.safetensors")}
    for folder in samples_under(Path("runs"), run.parent.parent):
        with contextlib.suppress(ValueError):
            if drawn_by(folder) in models:
                return folder
    return None


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
    settings = parse_json(next((png_settings(path) or "" for path in pictures), "") or "{}")
    if not isinstance(settings, dict) or "prior_sha256" not in settings:
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
    for run in runs_below(root, TRAIN_PRIOR):
        for path in sorted(run.glob("checkpoints/*.safetensors")):
            if sha256(path) == prior_sha256:
                return path
    raise ValueError(f"its prior is in no run under {root}")


def _pictures_of(codec: Path) -> TrainedOn:
    pictures = [Path(path) for path in read_header(codec).about["images"]]
    if len(pictures) != 1 or not pictures[0].exists():
        raise ValueError(f"{codec} was trained on {', '.join(map(str, pictures)) or 'unnamed pictures'}")
    return TrainedOn(pictures[0], codec)
