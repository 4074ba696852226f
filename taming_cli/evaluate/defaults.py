"""What is measured where nothing is named: the newest samples, against the pictures behind them."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from taming_cli.data.images import png_settings
from taming_cli.data.tokens import TokenFile
from taming_cli.errors import BadFileError, UsageError
from taming_cli.runtime.checkpoint import read_header


class TrainedOn(NamedTuple):
    """The pictures that a codec was trained on, and its file."""

    pictures: Path
    codec: Path


def newest_samples(root: Path = Path("runs")) -> Path:
    """The most recently made folder of samples. UsageError where there is none."""
    folders = [path.parent for path in (root / "sample").glob("*/grid.png")]
    if not folders:
        raise UsageError(f"name what is to be measured: there are no samples under {root / 'sample'}")
    return max(folders, key=lambda folder: (folder / "grid.png").stat().st_mtime_ns)


def trained_on(generated: Path, root: Path = Path("runs")) -> TrainedOn:
    """The pictures behind generated ones: those that the codec was trained on whose codes the prior learned.

    A sample's PNG says which prior drew it, which says its token files, which say their codec. UsageError, asking for
    the reference by name, where this chain is broken.
    """
    try:
        return _behind(_codec(generated, root))
    except (BadFileError, OSError, KeyError, ValueError) as error:
        raise UsageError(f"name the reference: what {generated} was trained on is not known ({error})") from error


def _codec(generated: Path, root: Path) -> Path:
    if generated.suffix.lower() == ".h5":
        recorded = Path(TokenFile(generated).header.codec_path)
        return recorded if read_header(recorded).format == "taming-codec" else _of_prior(recorded)
    if not generated.is_dir():
        raise ValueError("it is no folder of samples")
    pictures = (path for path in sorted(generated.rglob("*.png")) if path.name != "grid.png")
    settings: dict[str, Any] = json.loads(png_settings(next(pictures)) or "{}")
    wanted = settings["prior_sha256"]
    for path in sorted((root / "train-prior").glob("*/checkpoints/*.safetensors")):
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() == wanted:
                return _of_prior(path)
    raise ValueError(f"its prior is not under {root / 'train-prior'}")


def _of_prior(path: Path) -> Path:
    return Path(TokenFile(read_header(path).about["tokens"][0]).header.codec_path)


def _behind(codec: Path) -> TrainedOn:
    pictures = [Path(path) for path in read_header(codec).about["images"]]
    if len(pictures) != 1 or not pictures[0].exists():
        raise ValueError(f"{codec} was trained on {', '.join(map(str, pictures)) or 'nothing that is named'}")
    return TrainedOn(pictures[0], codec)
