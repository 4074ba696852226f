"""Model files and trainer files: written atomically, read without running anything.

A model file is safetensors with JSON metadata and describes itself. A trainer file holds all that an exact resume
needs; it is written before the model file of the same step, so a kill between the two loses nothing.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from taming_cli.data.disk import write_atomically, write_stream
from taming_cli.errors import BadFileError, NonFiniteLossError

_log = logging.getLogger(__name__)
FORMAT_VERSION = 1
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
"""The names of number types in safetensors files."""


class Stored(NamedTuple):
    """A tensor that is still in a file; `load()` brings it into memory, on the CPU and contiguous."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    load: Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """What a model file says: `format` is "taming-codec" or "taming-prior"; `config` the full config as plain JSON;
    `about` everything else (step, images seen, training data, metric at save, hashes). `tensors` on the CPU."""

    format: str
    config: Mapping[str, Any]
    about: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(repr=False)


def save_model(path: Path, model: ModelFile, tensors: Mapping[str, Tensor | Stored] | None = None) -> None:
    """Write a model file, atomically; with `tensors`, which may still lie in another file, in place of the model's."""
    metadata = {
        "format": model.format,
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(model.config),
        "about": json.dumps(model.about),
    }
    chosen = tensors or model.tensors
    size = sum(each.dtype.itemsize * math.prod(each.shape) for each in chosen.values())
    write_atomically(path, lambda temporary: write_safetensors(temporary, chosen, metadata), size=size)
    _log.info("wrote %s", path)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor | Stored], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, tensor by tensor: the library's own writer first makes a copy of all of them.

    The format: the header's length (8 bytes, little-endian), the header (JSON, padded with spaces), then the numbers of
    each tensor where the header says.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))  # so that all are aligned
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
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for name in order:
            stream.write(_bytes(tensors[name]))


def _bytes(tensor: Tensor | Stored) -> memoryview:
    """A tensor's numbers, row by row, as bytes."""
    here = tensor.load() if isinstance(tensor, Stored) else tensor.detach().cpu().contiguous()
    return here.reshape(-1).view(torch.uint8).numpy().data


def read_header(path: Path) -> ModelFile:
    """A model file without its tensors. BadFileError where it is none of ours."""
    return _read(path, with_tensors=False)


def is_ours(path: Path) -> bool:
    """Whether a file says that it is one of our model files, whole or not."""
    try:
        with path.open("rb") as stream:
            return b'"format":"taming-' in stream.read(2**20).replace(b" ", b"")
    except OSError:
        return False


def load_model(path: Path, format: str | None = None) -> ModelFile:
    """A model file, tensors on the CPU. BadFileError where it is damaged, not ours, or not of `format`."""
    model = _read(path, with_tensors=True)
    if format is not None and model.format != format:
        names = {"taming-codec": "a codec", "taming-prior": "a prior"}
        raise BadFileError(f"{path} is {names.get(model.format, model.format)}; {names[format]} is needed here")
    kind, step = model.format.removeprefix("taming-"), model.about.get("step")
    _log.info("read %s: a %s%s, %.1f MB", path, kind, f" of step {step}" if step else "", path.stat().st_size / 1e6)
    return model


def _read(path: Path, *, with_tensors: bool) -> ModelFile:
    if not path.is_file():
        raise BadFileError(f"model file {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()} if with_tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BadFileError(f"{path} is not a readable safetensors file: {error}") from None
    if not str(metadata.get("format", "")).startswith("taming-"):
        raise BadFileError(f"{path} was not written by taming; published checkpoints come in through `taming import`")
    try:
        version = int(metadata["format_version"])
        config, about = json.loads(metadata["config"]), json.loads(metadata["about"])
    except (KeyError, ValueError):
        raise BadFileError(f"{path} has damaged metadata") from None
    if version > FORMAT_VERSION:
        raise BadFileError(f"{path} has format version {version}; this program reads up to {FORMAT_VERSION}: update it")
    return ModelFile(format=metadata["format"], config=config, about=about, tensors=tensors)


def save_trainer(path: Path, state: Mapping[str, Any]) -> None:
    """Write a trainer file, atomically: tensors, numbers, strings and plain containers only.

    Raises NonFiniteLossError, before anything is written, where a tensor holds NaN or infinity: no training can go on
    from there.
    """
    if name := non_finite(state):
        raise NonFiniteLossError(
            f"{name} is not finite after step {state.get('step', '?')}; nothing was saved, and the files of the last "
            f"save in {path.parent} are whole. Start a new run from them with --init and a lower --learning-rate, or "
            "with --precision fp32"
        )
    write_atomically(path, lambda temporary: save_torch(temporary, dict(state)))
    _log.info("wrote %s", path)


def save_torch(path: Path, value: object) -> None:
    """`torch.save`, which says what the disk said where that refuses."""
    write_stream(path, lambda stream: torch.save(value, stream))


def load_trainer(path: Path) -> dict[str, Any]:
    """A trainer file, tensors on the CPU; it is read with `weights_only=True`. BadFileError where it is damaged, or
    holds values that are not finite."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler raises whatever it stumbles over in damaged bytes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadFileError(f"trainer file {path} cannot be read: {reason}") from None
    if not isinstance(state, dict):
        raise BadFileError(f"trainer file {path} holds no training state")
    if name := non_finite(state):
        raise BadFileError(
            f"trainer file {path}: {name} is not finite, so the training cannot go on; start a new run with --init "
            "and a model file of this one"
        )
    return state


def non_finite(state: Any) -> str:
    """The name, with dots, of the first tensor in nested containers that holds NaN or infinity; empty where none does.
    Waits once for each device."""
    tensors = {name: tensor for name, tensor in _tensors(state, "") if tensor.is_floating_point() and tensor.numel()}
    for device in {tensor.device for tensor in tensors.values()}:
        here = [name for name, tensor in tensors.items() if tensor.device == device]
        finite = torch.stack([tensors[name].isfinite().all() for name in here]).tolist()
        if not all(finite):
            return here[finite.index(False)]
    return ""


def _tensors(state: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, Mapping | list | tuple):
        for key, value in state.items() if isinstance(state, Mapping) else enumerate(state):
            yield from _tensors(value, f"{name}.{key}" if name else str(key))


def tensors_sha256(tensors: Mapping[str, Tensor | Stored], config: Mapping[str, Any]) -> str:
    """sha256 over a config and named tensors, in name order: name, dtype, shape, bytes."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()
