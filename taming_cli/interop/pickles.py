"""Other people's checkpoints: tensors, numbers, strings and plain containers out of a file, and nothing is ever run.

A `.ckpt`, `.pt`, `.pth` or `.bin` is a pickle: a program that may name any function of any module. Here it is read by
an unpickler that knows the few names from which tensors and plain containers are built; every other name (a trainer's
callbacks, OmegaConf nodes, numpy scalars) becomes an inert stand-in that takes whatever it is given and does nothing.
Tensors stay in the file until they are asked for, so that what is not wanted costs nothing.
"""

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from taming_cli.errors import BadFileError
from taming_cli.runtime.checkpoint import SAFETENSORS, Stored

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
TORCH_TYPES = {str(dtype).removeprefix("torch."): dtype for dtype in STORAGES.values()}
OLD_MAGIC, OLD_VERSION = 0x1950A86A20F9469CFC6C, 1001
"""The first two numbers in a file that torch wrote before its zip format (1.6)."""
COPIES = 10_000_000
"""Elements that a file may have copied from list to mapping: more is no checkpoint, but an attempt to keep us busy."""


class Inert:
    """What stands for every object that is neither tensor nor plain container: it takes anything and does nothing."""

    def __new__(cls, *_: object, **__: object) -> "Inert":  # noqa: D102
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...

    def __setitem__(self, _: object, __: object) -> None: ...

    def __call__(self, *_: object, **__: object) -> "Inert":  # noqa: D102
        return self

    def append(self, _: object) -> None:
        """Forget an element, however it comes."""

    add = extend = append


def read(path: Path) -> Any:
    """What a checkpoint holds: nested dicts and lists of plain values, with `Stored` tensors and `Inert` stand-ins.

    Zip and older files of torch, and safetensors (a flat dict). BadFileError for a file that is damaged, claims more
    than it holds, or is none of these; it is told in one line and nothing of the file has been run.
    """
    if not path.is_file():
        raise BadFileError(f"checkpoint {path} does not exist" if not path.exists() else f"{path} is no file")
    try:
        with path.open("rb") as stream:
            start = stream.read(512)
        if path.suffix == ".safetensors":
            return _safetensors(path)
        if start.startswith(b"PK"):
            return _zip(path)
        if start[257:262] == b"ustar":
            raise _Dead("it is a tar file, as torch before 0.2 wrote them")
        return _old(path)
    except _Dead as error:
        raise BadFileError(f"{path} cannot be read: {error}") from None
    except OSError as error:
        raise BadFileError(f"{path} cannot be read: {error.strerror or error}") from None


class _Dead(Exception):  # noqa: N818
    """The file is damaged; the text says how."""


class _Storage(NamedTuple):
    """A row of `numel` numbers of `dtype` in the file; `read()` gives their bytes."""

    dtype: torch.dtype
    numel: int
    read: Callable[[], bytearray]


class _Dict(dict[Any, Any]):
    def __setstate__(self, _: object) -> None:
        """An OrderedDict's attributes, such as a state dict's `_metadata`, are left out."""


class _Tuple(tuple[Any, ...]):
    """A tuple that is hashed by identity: a deep one as a key would else exhaust the C stack."""

    __slots__ = ()

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class _Call:
    """One of our functions, as something that a pickle can call but not change."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name: str, _: object) -> None:
        raise AttributeError(name)

    def __setstate__(self, _: object) -> None:
        raise _Dead("it tries to change a function")

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


class _Unpickler(pickle._Unpickler):
    """The pure Python one: unlike C's, it reserves no memory for what a file merely claims."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, stream: IO[bytes], storage: Callable[[torch.dtype, str, int], _Storage]) -> None:
        super().__init__(stream, encoding="latin1")
        self._storage = storage
        self._copies = 0
        rebuild = _Call(_rebuild)
        self._known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): _Call(self._mapping),
            ("torch", "Size"): _Call(_as_given),
            ("torch._utils", "_rebuild_tensor"): rebuild,
            ("torch._utils", "_rebuild_tensor_v2"): rebuild,
            ("torch._utils", "_rebuild_tensor_v3"): _Call(_rebuild_untyped),
            ("torch._utils", "_rebuild_parameter"): _Call(_first),
            ("torch._utils", "_rebuild_parameter_with_state"): _Call(_first),
        }
        for builtins in ("builtins", "__builtin__"):
            for name in ("list", "tuple", "set", "frozenset"):
                self._known[builtins, name] = _Call(_as_given)
            self._known[builtins, "dict"] = _Call(self._mapping)

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name in TORCH_TYPES:
            return TORCH_TYPES[name]
        return self._known.get((module, name), Inert)

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise _Dead("it refers to something that is no tensor")
        _, dtype, key, _, count, *rest = pid
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str) or not _is_count(count):
            raise _Dead("it describes a tensor's storage wrongly")
        if any(view is not None for view in rest):
            raise _Dead("it holds a view of a storage, as torch before 0.4 wrote them")
        return self._storage(dtype, key, count)

    def _mapping(self, pairs: Iterable[Any] = ()) -> dict[Any, Any]:
        made = _Dict()
        for key, value in pairs.items() if isinstance(pairs, dict) else pairs:
            self._copies += 1
            if self._copies > COPIES:
                raise _Dead("it copies more than any checkpoint does")
            made[key] = value
        return made

    def make_tuple(self, count: int | None) -> None:
        """Push a tuple of the topmost `count` values, or of those since the last mark."""
        if count is None:
            items = self.pop_mark()  # this also changes what `append` is
            self.append(_Tuple(items))
        elif count:
            self.stack[-count:] = [_Tuple(self.stack[-count:])]
        else:
            self.append(_Tuple())

    def refuse(self) -> None:
        """An opcode that reserves memory, or that names things in another way."""
        raise _Dead("it uses a feature of pickle that no checkpoint needs")


def _dispatch() -> None:
    """Tuples as ours, and none of what is no checkpoint's."""
    table: dict[int, Any] = _Unpickler.dispatch
    for code, count in (
        (pickle.TUPLE, None),
        (pickle.EMPTY_TUPLE, 0),
        (pickle.TUPLE1, 1),
        (pickle.TUPLE2, 2),
        (pickle.TUPLE3, 3),
    ):
        table[code[0]] = partial(_Unpickler.make_tuple, count=count)
    for code in (
        pickle.BYTEARRAY8,
        pickle.NEXT_BUFFER,
        pickle.READONLY_BUFFER,
        pickle.EXT1,
        pickle.EXT2,
        pickle.EXT4,
    ):
        table[code[0]] = _Unpickler.refuse


_dispatch()


def _as_given(elements: Any = ()) -> Any:
    """list(x), set(x) and the like: what is in x is all that matters here, and nothing is copied."""
    return elements


def _first(value: Any, *_: object) -> Any:
    """A parameter is its tensor."""
    return value


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> Stored:
    """Numbers `offset + sum(index * stride)` of a storage, all of which have to be there."""
    if not isinstance(storage, _Storage):
        raise _Dead("it builds a tensor of something else than numbers")
    well_formed = isinstance(size, list | tuple) and isinstance(stride, list | tuple) and len(size) == len(stride)
    if not well_formed or not all(map(_is_count, (offset, *size, *stride))):
        raise _Dead("it describes a tensor's shape wrongly")
    shape, steps, count = tuple(size), tuple(stride), math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(shape, steps, strict=True)) if count else 0
    if count > storage.numel or last >= max(storage.numel, 1):
        raise _Dead(f"a tensor of shape {shape} reaches beyond the {storage.numel} numbers that it is a part of")

    def load() -> Tensor:
        if not count:
            return torch.empty(shape, dtype=storage.dtype)
        row = torch.frombuffer(storage.read(), dtype=storage.dtype)
        return row.as_strided(shape, steps, offset).contiguous()

    return Stored(storage.dtype, shape, load)


def _rebuild_untyped(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any = None, _hooks: Any = None, dtype: Any = None, *_: Any
) -> Stored:
    if not isinstance(storage, _Storage) or not isinstance(dtype, torch.dtype):
        raise _Dead("it builds a tensor of something else than numbers")
    count = storage.numel * storage.dtype.itemsize // dtype.itemsize
    return _rebuild(storage._replace(dtype=dtype, numel=count), offset, size, stride)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _run(stream: IO[bytes], storage: Callable[[torch.dtype, str, int], _Storage]) -> Any:
    try:
        return _Unpickler(stream, storage).load()
    except _Dead:
        raise
    except Exception as error:  # damaged bytes make an unpickler raise anything at all
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise _Dead(f"its pickle is damaged ({reason})") from None


def _zip(path: Path) -> Any:
    """torch >= 1.6: a zip archive with the pickle in `*/data.pkl` and each storage in `*/data/<key>`, uncompressed."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _Dead(f"it is a damaged zip file ({error})") from None
    size = path.stat().st_size
    members = {member.filename: member for member in archive.infolist()}
    names = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
    if len(names) != 1:
        raise _Dead("it is a zip archive, but none that torch.save wrote")
    folder = names[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in members:
        raise _Dead("it is a compiled TorchScript model; give the checkpoint that it was made from")

    def contents(name: str) -> bytearray:
        if name not in members:
            raise _Dead(f"{name} is missing in it")
        member = members[name]
        if member.compress_type != zipfile.ZIP_STORED or not 0 <= member.file_size <= size:
            raise _Dead(f"{name} in it is compressed, or larger than the file")
        data = bytearray(member.file_size)
        try:
            with archive.open(member) as stream:
                got = stream.readinto(data)  # type: ignore[attr-defined]
                got += len(stream.read(1))  # reads on to the end, where the checksum is compared
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError, struct.error) as error:
            raise _Dead(f"{name} in it is damaged ({error})") from None
        if got != len(data):
            raise _Dead(f"{name} in it is cut short")
        return data

    if f"{folder}byteorder" in members and bytes(contents(f"{folder}byteorder")) != b"little":
        raise _Dead("its numbers are in big-endian order")

    def storage(dtype: torch.dtype, key: str, count: int) -> _Storage:
        name = f"{folder}data/{key}"
        if name not in members or members[name].file_size != count * dtype.itemsize:
            raise _Dead(f"it claims {count} numbers in {name}, which are not there")
        return _Storage(dtype, count, partial(contents, name))

    return _run(io.BytesIO(contents(names[0])), storage)


def _old(path: Path) -> Any:
    """torch < 1.6: five pickles (magic number, version, system, the value, the storages' keys), then the storages."""
    size = path.stat().st_size
    places: dict[str, int] = {}
    claimed: dict[str, _Storage] = {}

    def none(*_: object) -> _Storage:
        raise _Dead("it refers to a tensor where there can be none")

    def contents(key: str) -> bytearray:
        if key not in places:
            raise _Dead(f"storage {key} is missing in it")
        data = bytearray(claimed[key].numel * claimed[key].dtype.itemsize)
        with path.open("rb") as stream:
            stream.seek(places[key])
            if stream.readinto(data) != len(data):
                raise _Dead("it is cut short")
        return data

    def storage(dtype: torch.dtype, key: str, count: int) -> _Storage:
        found = claimed.setdefault(key, _Storage(dtype, count, partial(contents, key)))
        if (found.dtype, found.numel) != (dtype, count) or count * dtype.itemsize > size:
            raise _Dead(f"it claims {count} numbers in storage {key}, which are not there")
        return found

    with path.open("rb") as stream:
        try:
            known = _run(stream, none) == OLD_MAGIC and _run(stream, none) == OLD_VERSION
        except _Dead:
            known = False
        if not known:
            raise _Dead("it is no checkpoint of torch, nor a .safetensors file")
        _run(stream, none)
        value = _run(stream, storage)
        keys = _run(stream, none)
        if not isinstance(keys, list) or not set(claimed) <= set(filter(_is_text, keys)):
            raise _Dead("its list of storages is damaged")
        for key in keys:
            if key not in claimed:
                raise _Dead("it holds a storage that nothing refers to")
            (count,) = struct.unpack("<q", stream.read(8).ljust(8, b"\xff"))
            if count != claimed[key].numel:
                raise _Dead(f"storage {key} has another size than it claims")
            places[key] = stream.tell()
            stream.seek(count * claimed[key].dtype.itemsize, io.SEEK_CUR)
        if stream.tell() > size:
            raise _Dead("it is cut short")
    return value


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _safetensors(path: Path) -> dict[str, Stored]:
    types = {name: dtype for dtype, name in SAFETENSORS.items()}
    try:
        with safe_open(path, framework="pt") as file:
            found = {}
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                part = file.get_slice(name)
                found[name] = Stored(types[part.get_dtype()], tuple(part.get_shape()), partial(_one, path, name))
            return found
    except KeyError as error:
        raise _Dead(f"it holds numbers of type {error}") from None
    except SafetensorError as error:
        raise _Dead(str(error)) from None


def _one(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor
