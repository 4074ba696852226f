"""Model files and trainer files: written atomically, and read without executing anything.

A model file is a safetensors file whose JSON metadata describes it. A trainer file holds everything that an exact
resume needs. It is written before the model file of the same step, so a kill between the two loses nothing.
"""

import hashlib
import json
import logging
import math
import os
import re
import shlex
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from taming_cli.config.parsing import parse_json
from taming_cli.data.disk import no_handle, write_atomically, write_stream
from taming_cli.errors import BadFileError, NonFiniteLossError
from taming_cli.runtime.finite import marked, named_tensors, non_finite, refuse, refuse_tensors
from taming_cli.runtime.model_files import named
from taming_cli.runtime.stored import Stored

_log = logging.getLogger(__name__)
Network = TypeVar("Network", bound=nn.Module)
FORMAT_VERSION = 2
"""From version 2 on, a model file has a checksum."""
CHECKSUM = "checksum"
"""The entry of a model file's metadata with the CRC-32 of the other entries and of all tensors."""
LONGEST_HEADER = 2**25
"""Bytes of the longest header of a safetensors file that is read, enough for 200,000 tensors."""
_PARTS = {"taming-codec": ("codec",), "taming-prior": ("codec", "prior")}
"""The parts of the config of each format."""
SAFETENSORS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The names of dtypes in safetensors files."""


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """The contents of a model file: `format` is "taming-codec" or "taming-prior", `config` the full config as JSON,
    `about` everything else (step, images seen, training data, metrics, hashes), `tensors` on the CPU."""

    format: str
    config: Mapping[str, Any]
    about: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(repr=False)


def save_model(path: Path, model: ModelFile, tensors: Mapping[str, Tensor | Stored] | None = None) -> None:
    """Write a model file atomically, with `tensors`, which may still be in another file, or else the model's own."""
    metadata = {
        "format": model.format,
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(model.config),
        "about": json.dumps(model.about),
        CHECKSUM: "0" * 8,
    }
    chosen = tensors or model.tensors
    size = sum(each.dtype.itemsize * math.prod(each.shape) for each in chosen.values())
    write_atomically(path, lambda temporary: write_safetensors(temporary, chosen, metadata), size=size)
    _log.info("wrote %s", path)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor | Stored], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file tensor by tensor; the library's own writer first copies all of them. If the metadata has
    an entry CHECKSUM, of eight zeros, it becomes the checksum of everything else.

    The format: the length of the header (8 bytes, little-endian), the header (JSON, padded with spaces), then the
    values of each tensor at the offsets in the header.
    """
    order = _order(tensors)
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].dtype.itemsize * math.prod(tensors[name].shape)
        header[name] = {
            "dtype": SAFETENSORS[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    checksum = _checksum_of(metadata)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for name in order:
            values = _bytes(tensors[name])
            checksum = _add(checksum, name, tensors[name], values)
            stream.write(values)
        if CHECKSUM in metadata:
            before, digits = f'"{CHECKSUM}":"'.encode(), f"{checksum:08x}".encode()
            stream.seek(8 + text.index(before) + len(before))
            stream.write(digits)


def _order(tensors: Mapping[str, Tensor | Stored]) -> list[str]:
    """The names of tensors in the order of their values in a file, which keeps all aligned."""
    return sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))


def _checksum_of(metadata: Mapping[str, str]) -> int:
    """The CRC-32 of metadata, whose order safetensors does not keep."""
    others = sorted((name, text) for name, text in metadata.items() if name != CHECKSUM)
    return zlib.crc32(json.dumps(others).encode())


def _add(checksum: int, name: str, tensor: Tensor | Stored, values: memoryview) -> int:
    """The CRC-32 of what came before, and of a tensor."""
    return zlib.crc32(values, zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), checksum))


def _verify(path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Raise BadFileError unless a model file is as it was written. Format version 1 may have no checksum."""
    if CHECKSUM not in metadata:
        return
    checksum = _checksum_of(metadata)
    for name in _order(tensors):
        checksum = _add(checksum, name, tensors[name], _bytes(tensors[name]))
    if metadata[CHECKSUM] != f"{checksum:08x}":
        raise BadFileError(
            f"{path} is damaged: its checksum differs. Use a copy of it, or another checkpoint of the run; if another "
            f"program changed the file on purpose, set 'format_version' in its metadata to 1, and remove {CHECKSUM!r}"
        )


def _bytes(tensor: Tensor | Stored) -> memoryview:
    """The values of a tensor as bytes, in row-major order."""
    loaded = tensor.load() if isinstance(tensor, Stored) else tensor.detach().cpu().contiguous()
    return loaded.reshape(-1).view(torch.uint8).numpy().data


def read_header(path: Path) -> ModelFile:
    """A model file without its tensors; `path` as for `load_model`. BadFileError where it is not a model file."""
    return _read(named(path), with_tensors=False)


def is_ours(path: Path) -> bool:
    """Whether a file begins as one of our model files does, even if it is incomplete."""
    try:
        with path.open("rb") as stream:
            return b'"format":"taming-' in stream.read(2**20).replace(b" ", b"")
    except OSError:
        return False


def load_model(path: Path, format: str | None = None) -> ModelFile:
    """Load a model file, with its tensors on the CPU; `path` may be the folder of a run, or `builtin` (see `named`).

    BadFileError where it is damaged, not a model file, or not of `format`, and where a tensor is not finite, unless
    `import --allow-non-finite` has allowed that.
    """
    path = named(path)
    model = _read(path, with_tensors=True)
    bad, allowed = non_finite(model.tensors), marked(model.about)
    refuse(
        [name for name in bad if name not in allowed],
        str(path),
        "the model cannot be used; use another checkpoint of the run, or import the original again",
    )
    if bad:
        _log.warning("%s: %d tensors are not finite, such as %s; its import allowed that", path, len(bad), bad[0])
    if format is not None and model.format != format:
        names = {"taming-codec": "a codec", "taming-prior": "a prior"}
        raise BadFileError(f"{path} is {names.get(model.format, model.format)}; {names[format]} is needed here")
    kind, step = model.format.removeprefix("taming-"), model.about.get("step")
    _log.info("read %s: a %s%s, %.1f MB", path, kind, f" of step {step}" if step else "", path.stat().st_size / 1e6)
    return model


def fill(network: Network, model: ModelFile, prefix: str, where: str, noun: str) -> Network:
    """Assign the tensors of a model file whose names begin with `prefix` to a network on torch's meta device, in fp32;
    the result is frozen and in eval mode. Tensors `extra.*`, which an import keeps for an export, are skipped.

    BadFileError, which names the file `where` and the network `noun`, if tensors and network do not match.
    """
    tensors = {
        name[len(prefix) :]: tensor.float()  # a file may hold half precision
        for name, tensor in model.tensors.items()
        if name.startswith(prefix) and not name.startswith("extra.")
    }
    try:
        network.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise BadFileError(f"{where} does not hold the {noun} that its config describes: {reason}") from None
    return network.eval().requires_grad_(False)


@contextmanager
def building(where: str) -> Iterator[None]:
    """A context in which a network is built on torch's meta device as a file describes it. BadFileError for sizes that
    torch cannot represent."""
    try:
        with torch.device("meta"):
            yield
    except (RuntimeError, OverflowError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadFileError(f"{where} describes a network that cannot be built: {reason}") from None


def _read(path: Path, *, with_tensors: bool) -> ModelFile:
    if not path.exists():
        raise BadFileError(f"model file {path} does not exist")
    if problem := mistaken(path):
        raise BadFileError(problem)
    check_header(path)
    try:
        with open_safetensors(path) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()} if with_tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        if no_handle(error):
            raise
        raise BadFileError(f"{path} is not a readable safetensors file: {error}") from None
    if not str(metadata.get("format", "")).startswith("taming-"):
        raise BadFileError(f"{path} was not written by taming; import it first: {_import_of(path)}")
    try:
        version = int(metadata["format_version"])
        config, about = parse_json(metadata["config"]), parse_json(metadata["about"])
        parts = [config.get(name, {}) for name in _PARTS.get(metadata["format"], ())]
    except (KeyError, ValueError, AttributeError):
        raise BadFileError(f"{path} has damaged metadata") from None
    if not all(isinstance(each, dict) for each in (config, about, *parts)):
        raise BadFileError(f"{path} has damaged metadata")
    if version > FORMAT_VERSION:
        raise BadFileError(
            f"{path} has format version {version}, and this program reads up to {FORMAT_VERSION}; update taming"
        )
    if version > 1 and CHECKSUM not in metadata:
        raise BadFileError(f"{path} has damaged metadata: its checksum is missing")
    if with_tensors:
        _verify(path, metadata, tensors)
    return ModelFile(format=metadata["format"], config=config, about=about, tensors=tensors)


def open_safetensors(path: Path) -> Any:
    """Open a safetensors file to read its tensors. OSError if the system refuses that; torch, which maps the file,
    reports it as a RuntimeError that ends with the number of the error."""
    try:
        return safe_open(path, framework="pt")
    except RuntimeError as error:
        number = re.search(r"\((\d+)\)\s*$", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def check_header(path: Path) -> None:
    """Raise BadFileError for a safetensors file whose header is longer than any model needs: parsing it would take much
    time and memory."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if length > LONGEST_HEADER:
        raise BadFileError(
            f"{path} cannot be read: it is not a readable safetensors file, or its header, of {length} bytes, exceeds "
            f"{LONGEST_HEADER} bytes"
        )


_ZIP, _PICKLE, _HDF5 = b"PK\x03\x04", b"\x80", b"\x89HDF\r\n"


def mistaken(path: Path) -> str:
    """Why a path cannot be one of our model files, judged by its first bytes, with the remedy; empty where it may be
    one."""
    if path.is_dir():
        if any((path / name).is_file() for name in ("model_index.json", "config.json")):
            return f"{path} is a model folder of another program; import it first: {_import_of(path)}"
        return f"{path} is a folder without a model; name a model file, or the folder of a run"
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if start.startswith(_HDF5):
        return f"{path} is an HDF5 file, as written by `taming tokenize`; a model file is needed here"
    if path.name == "trainer.pt" and start.startswith(_ZIP):
        return f"{path} is the trainer file of a run; name a model of the run, such as {path.parent / 'checkpoints'}"
    # A safetensors file begins with its header's length, whose first byte may be 128 and whose last four are zero.
    if start.startswith(_ZIP) or (start.startswith(_PICKLE) and start[4:] != bytes(4)):
        return f"{path} is a checkpoint of another program (a pickle); import it first: {_import_of(path)}"
    return ""


def _import_of(path: Path) -> str:
    """The command that imports a foreign file."""
    target = Path(path.name).with_suffix(".safetensors")
    if target == Path(path.name):
        target = target.with_suffix(".taming.safetensors")
    return shlex.join(["taming", "import", str(path), "-o", str(target)])


def save_trainer(path: Path, state: Mapping[str, Any]) -> None:
    """Write a trainer file atomically: tensors, numbers, strings and plain containers only.

    Raises NonFiniteLossError, before anything is written, where a tensor holds NaN or infinity, since the training
    could not be resumed from it.
    """
    if names := non_finite(dict(named_tensors(state))):
        raise NonFiniteLossError(
            f"{names[0]} is not finite after step {state.get('step', '?')}; nothing was saved, and the files of the "
            f"last save in {path.parent} are intact. Start a new run from them with --init and a lower "
            "--learning-rate, or with --precision fp32"
        )
    write_atomically(path, lambda temporary: save_torch(temporary, dict(state)))
    _log.info("wrote %s", path)


def save_torch(path: Path, value: object) -> None:
    """`torch.save`, with a readable error where the disk is full or cannot be written."""
    write_stream(path, lambda stream: torch.save(value, stream))


def load_trainer(path: Path) -> dict[str, Any]:
    """Load a trainer file, with its tensors on the CPU; it is read with `weights_only=True`. BadFileError where it is
    damaged, and where a tensor in it is not finite."""
    try:
        _check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile and torch's unpickler raise many kinds of error for damaged bytes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadFileError(f"trainer file {path} cannot be read: {reason}") from None
    if not isinstance(state, dict):
        raise BadFileError(f"trainer file {path} holds no training state")
    refuse_tensors(
        dict(named_tensors(state)),
        f"trainer file {path}",
        "the training cannot be resumed from it; start a new run from an intact model file, with --init",
    )
    return state


def _check_archive(path: Path) -> None:
    """Raise an error if a member of a trainer file is damaged, since torch ignores the checksums, or compressed, which
    torch.save never does: a small file could unpack to any size."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise BadFileError("its members are compressed")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise BadFileError("its members overlap, or are larger than the file")
        damaged = archive.testzip()
    if damaged is not None:
        raise BadFileError(f"its member {damaged} is damaged")


def tensors_sha256(tensors: Mapping[str, Tensor | Stored], config: Mapping[str, Any]) -> str:
    """sha256 of a config and of named tensors in order of their names: name, dtype, shape, bytes."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()
