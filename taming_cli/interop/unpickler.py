"""A safe unpickler for tensors, numbers, strings and plain containers; every other object becomes a placeholder.

A pickle is a program that may call any function of any module. This unpickler implements the few names that build
tensors and plain containers, and replaces all others (callbacks of a trainer, OmegaConf nodes, numpy scalars) by an
inert `Placeholder`. Time and memory are proportional to the bytes in the file, regardless of the sizes that it claims.

`torch.load(weights_only=True)` with placeholders for unknown globals does not replace it: it refuses pickle protocols
1, 4 and 5, items set on a placeholder, and globals of blocked modules such as os. It loads all tensors of old files at
once; with mmap, it skips the checksums of a zip file, and the process dies of SIGBUS if the file shrinks. Nested
tuples as keys crash it, and colliding keys take quadratic time.
"""

import math
import pickle
from collections.abc import Callable
from types import MethodType
from typing import IO, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from taming_cli.runtime.stored import Stored

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

# Limits that no checkpoint exceeds, but a malicious file may, to exhaust time or memory.
MAX_READS = 5_000_000
"""Reads from the pickle: a million tensors need fewer; each takes about a microsecond and at most 100 bytes."""
MAX_COPIES = 1_000_000
"""Elements copied between containers, which a few bytes of pickle can request repeatedly."""
MAX_KEYS = 50_000
"""Dictionary keys that are not strings. String hashes are random; numbers can be chosen to collide."""
MAX_KEY = 2**60
"""The absolute value of an integer key: smaller integers all have different hashes."""
MAX_VIEWS = 64
"""The total size of all tensors, as a multiple of the file's size: tied weights share a storage."""
MAX_LINE = 1 << 20
"""Bytes in a line of a text pickle."""
MAX_RANK = 32
"""Dimensions of a tensor."""
MAX_COUNT = 2**62
"""Elements of a tensor that torch can represent."""


class DamagedError(Exception):
    """The file is damaged or not supported. The message continues "FILE cannot be read: "."""


class Placeholder:
    """The replacement for any object that is neither a tensor nor a plain container. It ignores all operations, but
    keeps the attributes of a torch module in `state`, which is empty otherwise."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: dict[Any, Any] = {}

    def append(self, _: object) -> None:
        """Ignore an element, or several."""

    extend = append


class Storage(NamedTuple):
    """A tensor's storage in the file: `numel` values of `dtype`, whose bytes `read()` returns."""

    dtype: torch.dtype
    numel: int
    read: Callable[[], bytearray]


FindStorage = Callable[[torch.dtype, str, int], Storage]
"""(dtype, key, number of values) of a storage -> the storage, or DamagedError if the file does not hold it."""


class _TupleKey(tuple[Any, ...]):
    """A tuple as a key, hashed and compared by identity: comparing nested tuples can take exponential time."""

    __slots__ = ()

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class _Memo(dict[int, Any]):
    """The numbered values of a pickle. Every writer counts up; other numbers could be chosen to collide."""

    def __setitem__(self, number: int, value: Any) -> None:
        if not 0 <= number <= len(self) + 1:
            raise DamagedError("its pickle numbers its values out of sequence")
        super().__setitem__(number, value)


class _BoundedStream:
    """A stream that limits the number of reads, and refuses reads larger than the file."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._size, self._reads = stream, size, 0

    def read(self, count: int) -> bytes:
        self._count_read()
        if count > self._size:
            raise DamagedError("it is cut short")
        return self._stream.read(count)

    def readline(self) -> bytes:
        self._count_read()
        line = self._stream.readline(MAX_LINE)
        if not line.endswith(b"\n"):
            raise DamagedError("its pickle is cut short")
        return line

    def _count_read(self) -> None:
        self._reads += 1
        if self._reads > MAX_READS:
            raise DamagedError("its pickle is longer than that of any checkpoint")


def unpickle(stream: IO[bytes], size: int, find_storage: FindStorage) -> Any:
    """Read the pickle at `stream`, which is part of a file of `size` bytes.

    Returns lists for lists and sets, tuples for tuples and frozen sets, dicts for mappings, `Stored` for tensors, and
    `Placeholder` for other objects. Tuples as keys equal only themselves. DamagedError if the pickle cannot be read.
    """
    try:
        return _Unpickler(stream, size, find_storage).load()
    except DamagedError:
        raise
    except Exception as error:  # for damaged bytes, an unpickler can raise any exception
        raise DamagedError(f"its pickle is damaged ({type(error).__name__}: {error})") from None


class _Unpickler(pickle._Unpickler):
    """Based on the Python implementation: unlike the one in C, it allocates no memory for sizes that a file claims."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {}
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]

    def __init__(self, stream: IO[bytes], size: int, find_storage: FindStorage) -> None:
        super().__init__(_BoundedStream(stream, size), encoding="latin1")
        self._find_storage = find_storage
        self.memo = _Memo()
        self._copies_left, self._keys_left, self._bytes_left = MAX_COPIES, MAX_KEYS, MAX_VIEWS * size
        self._functions: dict[str, Any] = {
            "builtins.dict": self._mapping,
            "builtins.list": self._same,
            "builtins.set": self._same,
            "builtins.tuple": self._tuple,
            "builtins.frozenset": self._tuple,
            "collections.OrderedDict": self._mapping,
            "torch.Size": self._tuple,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._untyped_tensor,
            "torch._utils._rebuild_parameter": self._first,
            "torch._utils._rebuild_parameter_with_state": self._first,
            "torch._tensor._rebuild_from_type_v2": self._tensor_subclass,
        }

    # Names and calls

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name in TORCH_TYPES:
            return TORCH_TYPES[name]
        module = "builtins" if module == "__builtin__" else module  # as Python 2 calls it
        return self._functions.get(f"{module}.{name}") or Placeholder()

    def _call(self, function: Any, arguments: Any) -> Any:
        if isinstance(function, Placeholder):
            return Placeholder()
        # `find_class` alone puts methods on the stack
        if not isinstance(function, MethodType) or type(arguments) is not tuple or len(arguments) > 16:
            raise DamagedError("its pickle calls an object that is not a function")
        return function(*arguments)

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.append(self._call(function, arguments))

    def load_newobj_ex(self) -> None:
        keywords, arguments, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.append(self._call(function, None if keywords else arguments))  # no function here has keyword arguments

    def load_inst(self) -> None:
        function = self.find_class(self.readline()[:-1].decode(), self.readline()[:-1].decode())
        arguments = tuple(self.pop_mark())  # this also rebinds `append`
        self.append(self._call(function, arguments))

    def load_obj(self) -> None:
        function, *arguments = self.pop_mark()
        self.append(self._call(function, tuple(arguments)))

    def load_build(self) -> None:
        """Ignore attributes, such as the `_metadata` of a state dict, except those of a torch module."""
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, Placeholder | dict):
            raise DamagedError("its pickle sets attributes of an object that has none")
        if isinstance(target, Placeholder) and isinstance(state, dict) and "_modules" in state:
            target.state = state

    def refuse(self) -> None:
        """Refuse opcodes that allocate memory in advance or that refer to names by number."""
        raise DamagedError("it uses a feature of pickle that no checkpoint needs")

    def load_frame(self) -> None:
        """Skip the header of a frame: frames only help to read ahead."""
        self.read(8)

    # Containers

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        """Set alternating keys and values of the dict on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[self._key(key)] = value
        elif not isinstance(target, Placeholder):
            raise DamagedError("its pickle sets items of an object that is not a dict")

    def _key(self, key: Any) -> Any:
        if isinstance(key, str):
            return key
        self._keys_left -= 1
        if self._keys_left < 0 or (isinstance(key, int) and not -MAX_KEY < key < MAX_KEY):
            raise DamagedError("it has more or larger numbers as keys than any checkpoint")
        return _TupleKey(self._tuple(key)) if isinstance(key, tuple) else key

    def _mapping(self, pairs: Any = ()) -> dict[Any, Any]:
        mapping = {}
        for key, value in pairs.items() if isinstance(pairs, dict) else pairs:
            self._count_copies(1)
            mapping[self._key(key)] = value
        return mapping

    def _tuple(self, elements: Any = ()) -> tuple[Any, ...]:
        self._count_copies(len(elements))
        return tuple(elements)

    def _same(self, elements: Any = ()) -> Any:
        """list(x) and set(x): the elements are all that matters, and are not copied."""
        return elements

    def _first(self, value: Any, *_: object) -> Any:
        """A parameter: its tensor."""
        return value

    def _count_copies(self, count: int) -> None:
        self._copies_left -= count
        if self._copies_left < 0:
            raise DamagedError("its pickle copies more than that of any checkpoint")

    # Tensors

    def persistent_load(self, pid: Any) -> Storage | Placeholder:
        if type(pid) is tuple and pid[:1] == ("module",):  # a class; old files contain its source code
            return Placeholder()
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
            raise DamagedError("it refers to an object that is neither tensor nor module")
        _, dtype, key, _, count, *view = pid
        if isinstance(dtype, Placeholder):
            raise DamagedError("it holds values of a type that is not supported, such as complex or quantised ones")
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str) or not _is_count(count):
            raise DamagedError("the description of a tensor's storage is invalid")
        if view not in ([], [None]):
            raise DamagedError("it holds a view of a storage, as torch before 0.4 wrote them")
        return self._find_storage(dtype, key, count)

    def _tensor(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        _grad: Any = None,
        _hooks: Any = None,
        flags: Any = None,
    ) -> Stored:
        """The values `offset + sum(index * stride)` of a storage, all of which must exist."""
        if not isinstance(storage, Storage):
            raise DamagedError("it builds a tensor from an object that is not a storage")
        if flags:
            raise DamagedError("it holds a lazily negated or conjugated tensor")
        lists = isinstance(size, list | tuple) and isinstance(stride, list | tuple)
        if not lists or not len(size) == len(stride) <= MAX_RANK or not all(map(_is_count, (offset, *size, *stride))):
            raise DamagedError("the description of a tensor's shape is invalid")
        shape, strides, count = tuple(size), tuple(stride), math.prod(size)
        if math.prod(max(length, 1) for length in shape) >= MAX_COUNT:
            raise DamagedError(f"it claims a tensor of shape {shape}")
        last = offset + sum((length - 1) * step for length, step in zip(shape, strides, strict=True)) if count else 0
        if count > storage.numel or last >= max(storage.numel, 1):
            raise DamagedError(f"a tensor of shape {shape} reaches beyond the {storage.numel} values of its storage")
        self._bytes_left -= count * storage.dtype.itemsize
        if self._bytes_left < 0:
            raise DamagedError("too many tensors share its storages")

        def load() -> Tensor:
            if not count:
                return torch.empty(shape, dtype=storage.dtype)
            values = torch.frombuffer(storage.read(), dtype=storage.dtype, count=storage.numel)
            view = values.as_strided(shape, strides, offset)
            if count == storage.numel:
                return view.contiguous()
            return view.clone(memory_format=torch.contiguous_format)  # frees the rest of the storage

        return Stored(storage.dtype, shape, load)

    def _untyped_tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, flags: Any = None
    ) -> Stored:
        if isinstance(dtype, Placeholder):
            raise DamagedError("it holds values of a type that is not supported, such as uint16")
        if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
            raise DamagedError("it builds a tensor from an object that is not a storage")
        count = storage.numel * storage.dtype.itemsize // dtype.itemsize
        return self._tensor(storage._replace(dtype=dtype, numel=count), offset, size, stride, grad, hooks, flags)

    def _tensor_subclass(self, function: Any, _type: Any, arguments: Any, _state: Any) -> Any:
        """A tensor with attributes, or of a subclass: the plain tensor."""
        return self._call(function, arguments) if function in (self._tensor, self._untyped_tensor) else Placeholder()


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_COUNT


_INSTEAD = {
    "load_newobj": "load_reduce",
    "load_frozenset": "load_tuple",
    "load_empty_set": "load_empty_list",
    "load_additems": "load_appends",
    **dict.fromkeys(("load_ext1", "load_ext2", "load_ext4"), "refuse"),
    **dict.fromkeys(("load_bytearray8", "load_next_buffer", "load_readonly_buffer"), "refuse"),
}
"""The methods for opcodes that are handled like another one, or refused. The other methods override by name."""

for _code, _load in pickle._Unpickler.dispatch.items():
    _Unpickler.dispatch[_code] = getattr(_Unpickler, _INSTEAD.get(_load.__name__, _load.__name__))
_named = {load.__name__ for load in pickle._Unpickler.dispatch.values()}
assert _named >= {*_INSTEAD, *(name for name in vars(_Unpickler) if name.startswith("load_"))}, (
    "an override is not used"
)
