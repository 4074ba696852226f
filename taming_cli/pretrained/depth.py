"""Depth estimation: a transformers depth model, from a local folder or from the Hugging Face hub.

Only safetensors are read, and no code that comes with a model is run. transformers is an optional dependency and is
imported when a model is built.
"""

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from taming_cli.config.parsing import parse_json
from taming_cli.errors import BadFileError, BadImageError, MissingWeightsError, TamingError
from taming_cli.pretrained.annotators import Annotator, Stamp, downscaled
from taming_cli.runtime.finite import refuse_tensors
from taming_cli.runtime.weights import FOLDER_VARIABLE, FetchResult, Location, Origin, sha256

_INDEX = "model.safetensors.index.json"
_SETTINGS = ("config.json", "preprocessor_config.json")
_FILES = (*_SETTINGS, "model.safetensors", _INDEX, "model-*-of-*.safetensors")
_PROBE = 64  # pixels


class DepthModel(Annotator):
    """A model of transformers' `AutoModelForDepthEstimation`, with its own pre- and postprocessing.

    The unit depends on the model: values of DPT and Depth Anything grow with proximity, those of metric models with
    distance. Each map is scaled to its own range.
    """

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__()
        import transformers

        if lacking := _lacking(folder):
            raise BadFileError(
                f"{folder} lacks {', '.join(lacking)}; give a folder as transformers' save_pretrained writes it"
                " (other formats can run code and are not read)"
            )
        self.stamp = Stamp(name, _digest(_weight_files(folder)), known=False)
        self.settings = {file.removesuffix(".json"): sha256(folder / file)[:16] for file in _SETTINGS}
        try:
            with quiet_transformers():
                self.network, loaded = transformers.AutoModelForDepthEstimation.from_pretrained(
                    folder,
                    use_safetensors=True,
                    trust_remote_code=False,
                    local_files_only=True,
                    output_loading_info=True,
                    dtype=torch.float32,
                )
                self.processor: Any = transformers.AutoImageProcessor.from_pretrained(
                    folder, trust_remote_code=False, local_files_only=True
                )
        except Exception as error:  # transformers raises nearly any class
            raise BadFileError(
                f"{folder} is not a depth model that transformers can load: {_first_line(error)}"
            ) from error
        refuse_tensors(self.network.state_dict(), str(folder), "fetch the model again")
        self.freeze()
        if loaded["missing_keys"]:
            self._check_unused(loaded["missing_keys"], folder)

    def depth(self, picture: Tensor) -> Tensor:
        """uint8 (3, H, W) -> fp32 (H, W) on the CPU, in the model's unit."""
        small, size = downscaled(picture), tuple(picture.shape[1:])
        image = small.permute(1, 2, 0).numpy()
        try:  # the format is given, because guessing it fails for images of three rows
            inputs = self.processor(images=image, input_data_format="channels_last", return_tensors="pt")
        except ValueError as error:  # some models' resize leaves nothing of a narrow strip
            pixels = f"{small.shape[2]}x{small.shape[1]} pixels"
            raise BadImageError(f"{self.stamp.name} cannot process {pixels}: {_first_line(error)}") from error
        outputs = self.network(**inputs.to(self.device))
        # Positional, because the parameter has another name in models with padding.
        (estimate,) = self.processor.post_process_depth_estimation(outputs, [tuple(small.shape[1:])])
        depth: Tensor = estimate["predicted_depth"].float().cpu().reshape(1, 1, *small.shape[1:])
        if depth.shape[2:] != size:
            depth = F.interpolate(depth, size, mode="bilinear", align_corners=False)
        return depth[0, 0]

    def draw(self, picture: Tensor) -> Image.Image:
        """uint8 (3, H, W) -> 16-bit grey, W x H: 0 for the smallest value, 65535 for the largest; 0 if constant."""
        depth = self.depth(picture)
        low, high = depth.min(), depth.max()
        if not (high - low).isfinite():
            raise BadImageError(f"{self.stamp.name} estimates depths that are infinite or NaN")
        depth.sub_(low)  # in place, to save memory
        if high > low:
            depth.div_(high - low).mul_(65535).round_()
        return Image.fromarray(depth.numpy().astype(np.uint16))

    def _check_unused(self, missing: Any, folder: Path) -> None:
        """Check that tensors missing from the files are never used, by filling them with NaN. BadFileError otherwise.

        The files of DPT lack a layer that the network has, but skips.
        """
        tensors = self.network.state_dict()
        for name in missing:
            if tensors[name].is_floating_point():
                tensors[name].fill_(torch.nan)
        grey = torch.full((3, _PROBE, _PROBE), 128, dtype=torch.uint8)
        with torch.inference_mode():
            used = not self.depth(grey).isfinite().all()
        if used:
            raise BadFileError(f"{folder} lacks {len(missing)} tensors of the network, such as {min(missing)}")


def depth_model(model: str, *, weights: Path | None = None, offline: bool = False) -> DepthModel:
    """Load the model `model`, a folder or a name on the hub, on the CPU.

    A name is searched in `weights` (the model's folder, or a folder that contains it under the last part of its name),
    in `$TAMING_WEIGHTS_DIR`, in the hub's cache, and on the hub unless offline. TamingError if transformers is not
    installed, MissingWeightsError if the model is not found, BadFileError if it is damaged or not a depth model.
    """
    if importlib.util.find_spec("transformers") is None:
        raise TamingError("depth needs transformers, which is not installed; run: pip install 'taming[annotate]'")
    if Path(model).is_dir():
        return DepthModel(Path(model).resolve().name, Path(model))
    place = _place(model, weights)
    return DepthModel(model, place[0] if place else _downloaded(model, offline))


def locate(model: str, *, weights: Path | None = None, verify: bool = False) -> Location:
    """Search for a model without downloading it. With `verify`, the sha256 of its weights is computed.

    `verified` means that it equals the sha256 recorded in the hub's cache. A folder elsewhere has no record, and is
    `present`.
    """
    place = _place(model, weights)
    if place is None:
        return Location("missing")
    if not verify:
        return Location("present", *place)
    files = _weight_files(place[0])
    try:
        _digest(files)
    except BadFileError:
        return Location("wrong sha256", *place)
    return Location("verified" if all(map(_recorded_sha256, files)) else "present", *place)


def fetch(model: str, folder: Path | None = None, *, offline: bool = False, bars: bool = True) -> FetchResult:
    """Make a model available in `folder`, under the last part of its name; without one, wherever it is found or in the
    hub's cache. A model in another place on this machine is copied. Raises as `depth_model`.

    `bars`: whether the hub's library may show its progress bars.
    """
    place = _place(model, None)
    if place is None and not bars:
        with _without_bars():
            return fetch(model, folder, offline=offline)
    if folder is None:
        return FetchResult(place[0], created=False) if place else FetchResult(_downloaded(model, offline), created=True)
    target = folder / _last(model)
    if target.exists():
        if lacking := _lacking(target):
            raise BadFileError(f"{target} lacks {', '.join(lacking)}: remove it and run again")
        return FetchResult(target, created=False)
    source = place[0] if place else _downloaded(model, offline)
    files = _weight_files(source)
    _digest(files)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{target.name}.") as unfinished:
        copied = Path(unfinished) / target.name
        copied.mkdir()
        for file in (*(source / name for name in (*_SETTINGS, _INDEX)), *files):
            if file.is_file():
                shutil.copyfile(file, copied / file.name)
        copied.replace(target)
    return FetchResult(target, created=True)


def _place(model: str, weights: Path | None) -> tuple[Path, Origin] | None:
    """The model's folder and its origin: a folder that the user names, or the hub's cache."""
    if weights is not None and not weights.is_dir():
        raise MissingWeightsError(f"--weights {weights} is not a folder; {_remedy(model)}")
    places: list[tuple[Path, Origin]] = []
    if weights is not None:
        places += [(weights, "given"), (weights / _last(model), "given")]
    if folder := os.environ.get(FOLDER_VARIABLE):
        places.append((Path(folder) / _last(model), "folder"))
    place = next((place for place in places if not _lacking(place[0])), None)
    if place is None and (cached := _snapshot(model, local_files_only=True)) is not None:
        place = cached, "cache"
    return place


def _downloaded(model: str, offline: bool) -> Path:
    if offline:
        raise MissingWeightsError(
            f"depth model {model} is not on this machine and --offline forbids the download; {_remedy(model)}"
        )
    try:
        folder = _snapshot(model, local_files_only=False)
    except Exception as error:  # from the hub's library, its http client, or the system
        raise MissingWeightsError(
            f"depth model {model} is not on this machine and downloading it failed ({_first_line(error)});"
            f" {_remedy(model)}"
        ) from error
    if folder is None:
        raise MissingWeightsError(f"the hub's {model} has no {', '.join(_FILES[:3])}; choose another")
    return folder


def _snapshot(model: str, *, local_files_only: bool) -> Path | None:
    """The folder of a model in the hub's cache; None if it is missing or incomplete."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(model, allow_patterns=list(_FILES), local_files_only=local_files_only))
    except HFValidationError as error:
        raise MissingWeightsError(f"{model!r} is neither a folder nor the name of a model; {_remedy()}") from error
    except LocalEntryNotFoundError:
        if local_files_only:
            return None
        raise
    return None if _lacking(folder) else folder


def _lacking(folder: Path) -> list[str]:
    """The files of a model that a folder lacks."""
    lacking = [file for file in _SETTINGS if not (folder / file).is_file()]
    return lacking if _weight_files(folder) else [*lacking, "model.safetensors"]


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model; empty if one is missing."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    try:
        parts = sorted(set(parse_json((folder / _INDEX).read_text())["weight_map"].values()))
    except (OSError, ValueError, LookupError, AttributeError):
        return []
    files = [folder / Path(part).name for part in parts]
    return files if all(file.is_file() for file in files) else []


def _digest(files: Sequence[Path]) -> str:
    """The sha256 of a model's weights; for several files, of their sha256, one per line."""
    digests = [sha256(file) for file in files]
    for file, digest in zip(files, digests, strict=True):
        expected = _recorded_sha256(file)
        if expected is not None and expected != digest:
            raise BadFileError(
                f"{file} has sha256 {digest} instead of {expected}: remove {file.resolve()} and run again"
            )
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def _recorded_sha256(file: Path) -> str | None:
    """The sha256 that the hub published for a file: its name in the hub's cache."""
    name = file.resolve().name
    return name if re.fullmatch("[0-9a-f]{64}", name) else None


def _remedy(model: str = "") -> str:
    if not model:
        return "give --model FOLDER, as transformers' save_pretrained writes it, or a name like owner/model"
    return (
        f"fetch config.json, preprocessor_config.json and the safetensors of https://huggingface.co/{model} into a"
        f" folder and give it as --model FOLDER, or put it into ${FOLDER_VARIABLE} as {_last(model)}"
    )


def _last(model: str) -> str:
    return model.rpartition("/")[2]


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Disable the progress bars of the hub's library."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Disable transformers' progress bars and warnings; relevant ones are errors here."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
