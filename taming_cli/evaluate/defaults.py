"""What is measured where nothing is named: the newest samples, against the pictures behind them."""

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
    """The pictures that a codec was trained on, and its file."""

    pictures: Path
    codec: Path


def newest_samples(root: Path = Path("runs")) -> Path:
    """The most recently made folder of samples. UsageError where there is none."""
    folders = samples_under(root)
    if not folders:
        raise UsageError(f"name what is to be measured: there are no samples under {root / 'sample'}")
    return folders[0]


def samples_under(*roots: Path) -> list[Path]:
    """Folders of samples, the newest first."""
    sheets = {sheet for root in roots for sheet in (root / "sample").glob("*/grid.png")}
    return [sheet.parent for sheet in sorted(sheets, key=lambda sheet: -sheet.stat().st_mtime_ns)]


def drawn_by(samples: Path) -> str:
    """The sha256 of the prior's file that drew a folder of samples. ValueError where they do not say."""
    pictures = (path for path in sorted(samples.rglob("*.png")) if path.name != "grid.png")
    settings: dict[str, Any] = json.loads(next((png_settings(path) or "" for path in pictures), "") or "{}")
    if "prior_sha256" not in settings:
        raise ValueError("no picture in it says which prior drew it")
    return str(settings["prior_sha256"])


def trained_on(generated: Path, root: Path = Path("runs")) -> TrainedOn:
    """The pictures behind generated ones: those that the codec was trained on whose codes the prior learned.

    A sample's PNG says which prior drew it; a token file says its codec, or the prior that holds it. UsageError, asking
    for the reference by name, where the way is lost.
    """
    try:
        if generated.suffix.lower() == ".h5":
            recorded = Path(TokenFile(generated).header.codec_path)
            return _pictures_of(recorded) if read_header(recorded).format == "taming-codec" else behind(recorded)
        return behind(_prior(generated, root))
    except (BadFileError, OSError, KeyError, ValueError) as error:
        raise UsageError(f"name the reference: what {generated} was trained on is not known ({error})") from error


def behind(prior: Path) -> TrainedOn:
    """The pictures behind a prior: its token files name their codec, and that names them. UsageError where one is not
    there any more."""
    try:
        return _pictures_of(Path(TokenFile(read_header(prior).about["tokens"][0]).header.codec_path))
    except (BadFileError, OSError, KeyError, ValueError) as error:
        raise UsageError(f"name the reference: what {prior} was trained on is not known ({error})") from error


def _prior(samples: Path, root: Path) -> Path:
    """The prior that drew a folder of samples, among those under `root`."""
    if not samples.is_dir():
        raise ValueError("it is no folder of samples")
    wanted = drawn_by(samples)
    for run in runs_below(root, "train-prior"):
        for path in sorted(run.glob("checkpoints/*.safetensors")):
            if sha256(path) == wanted:
                return path
    raise ValueError(f"its prior is in no run under {root}")


def _pictures_of(codec: Path) -> TrainedOn:
    pictures = [Path(path) for path in read_header(codec).about["images"]]
    if len(pictures) != 1 or not pictures[0].exists():
        raise ValueError(f"{codec} was trained on {', '.join(map(str, pictures)) or 'nothing that is named'}")
    return TrainedOn(pictures[0], codec)
