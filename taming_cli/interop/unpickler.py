"""An unpickler that runs nothing: tensors, numbers, strings and plain containers, and stand-ins for all else.

A pickle is a program that may name any function of any module. This reader of it knows the few names from which
tensors and plain containers are built; every other name (a trainer's callbacks, OmegaConf nodes, numpy scalars) becomes
an inert stand-in. It calls and changes nothing but its own, and all that it does takes time and memory in proportion to
the bytes that are there, whatever they claim.
"""

import math
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
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

# More than this is no checkpoint, but an attempt to keep us busy or to fill the memory.
STEPS = 5_000_000
"""Reads from a pickle: a million tensors take fewer, and each costs about a microsecond and at most 100 bytes."""
COPIES = 1_000_000
"""Elements copied from one container to another, which a pickle can ask for again and again in a few bytes."""
KEYS = 50_000
"""Keys that are no strings: those of strings are hashed at random, but numbers can be chosen so that they collide."""
KEY = 2**60
"""An integer key; below this, all have different hashes."""
VIEWS = 64
"""How many times a file's size all its tensors together may be: tied weights are stored once."""
LINE = 1 << 20
"""Bytes in a line of a text pickle."""
RANK = 32
"""A tensor's dimensions."""
HUGE = 2**62
"""A count that torch could not hold."""


class Damaged(Exception):  # noqa: N818 - what the file is, not what we did
    """The file is damaged or of no kind known here; the text says how."""


class Inert:
    """What stands for every object that is neither tensor nor plain container: it takes anything and does nothing."""

    __slots__ = ()

    def append(self, _: object) -> None:
        """Forget an element, or several."""

    extend = append


class Storage(NamedTuple):
    """A row of `numel` numbers of `dtype` in the file; `read()` gives their bytes."""

    dtype: torch.dtype
    numel: int
    read: Callable[[], bytearray]


class _Tuple(tuple[Any, ...]):
    """A tuple that is hashed and compared by identity: deep ones as keys would take exponential time, and the stack."""

    __slots__ = ()

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


@dataclass(frozen=True, eq=False)
class _Call:
    """One of our functions, which a pickle may call."""

    function: Callable[..., Any]


class _Source:
    """A stream that gives so much and no more, and is never asked for more than its file holds."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._size, self._steps = stream, size, 0

    def read(self, count: int) -> bytes:
        self._step()
        if count > self._size:
            raise Damaged("it is cut short")
        return self._stream.read(count)

    def readline(self) -> bytes:
        self._step()
        line = self._stream.readline(LINE)
        if not line.endswith(b"\n"):
            raise Damaged("its pickle is cut short")
        return line

    def _step(self) -> None:
        self._steps += 1
        if self._steps > STEPS:
            raise Damaged("its pickle is longer than that of any checkpoint")


def unpickle(stream: IO[bytes], size: int, storage: Callable[[torch.dtype, str, int], Storage]) -> Any:
    """The value of the pickle at `stream`, which lies in a file of `size` bytes.

    `storage(dtype, key, numel)` finds the numbers of a tensor. Lists and sets come as lists, tuples and frozen sets as
    tuples that equal only themselves, mappings as dicts, tensors as `Stored`, the rest as `Inert`. Damaged where that
    cannot be done.
    """
    try:
        return _Unpickler(stream, size, storage).load()
    except Damaged:
        raise
    except Exception as error:  # damaged bytes make an unpickler raise anything at all
        raise Damaged(f"its pickle is damaged ({type(error).__name__}: {error})") from None


class _Unpickler(pickle._Unpickler):
    """The pure Python one: unlike C's, it reserves no memory for what a file merely claims."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)
    memo: dict[int, Any]
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]

    def __init__(self, stream: IO[bytes], size: int, storage: Callable[[torch.dtype, str, int], Storage]) -> None:
        super().__init__(_Source(stream, size), encoding="latin1")
        self._storage = storage
        self._copies, self._keys, self._views = COPIES, KEYS, VIEWS * size
        self._known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): _Call(self._mapping),
            ("torch", "Size"): _Call(self._tuple),
            ("torch._utils", "_rebuild_tensor"): _Call(self._tensor),
            ("torch._utils", "_rebuild_tensor_v2"): _Call(self._tensor),
            ("torch._utils", "_rebuild_tensor_v3"): _Call(self._untyped_tensor),
            ("torch._utils", "_rebuild_parameter"): _Call(_first),
            ("torch._utils", "_rebuild_parameter_with_state"): _Call(_first),
            ("torch._tensor", "_rebuild_from_type_v2"): _Call(self._with_attributes),
        }
        for builtins in ("builtins", "__builtin__"):
            self._known[builtins, "dict"] = _Call(self._mapping)
            for name, function in (("list", _same), ("set", _same), ("tuple", self._tuple), ("frozenset", self._tuple)):
                self._known[builtins, name] = _Call(function)

    # Names, and what is done with them

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name in TORCH_TYPES:
            return TORCH_TYPES[name]
        return self._known.get((module, name)) or Inert()

    def _call(self, function: Any, arguments: Any) -> Any:
        if isinstance(function, Inert):
            return Inert()
        if not isinstance(function, _Call) or not isinstance(arguments, _Tuple) or len(arguments) > 16:
            raise Damaged("it calls something that is no function")
        return function.function(*arguments)

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.append(self._call(function, arguments))

    def load_newobj_ex(self) -> None:
        named, arguments, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.append(self._call(function, None if named else arguments))  # none of our functions takes names

    def load_inst(self) -> None:
        function = self.find_class(self.readline()[:-1].decode(), self.readline()[:-1].decode())
        arguments = _Tuple(self.pop_mark())
        self.append(self._call(function, arguments))

    def load_obj(self) -> None:
        function, *arguments = self.pop_mark()
        self.append(self._call(function, _Tuple(arguments)))

    def load_build(self) -> None:
        """Attributes, such as a state dict's `_metadata`, are left out."""
        self.stack.pop()
        if not isinstance(self.stack[-1], Inert | dict):
            raise Damaged("it changes something that has no attributes")

    def refuse(self) -> None:
        """An opcode that reserves memory, or that names things in another way."""
        raise Damaged("it uses a feature of pickle that no checkpoint needs")

    def load_frame(self) -> None:
        """Frames only help those who read ahead."""
        self.read(8)

    def _remember(self, place: int) -> None:
        """The topmost value, numbered in sequence as every writer does: so the numbers cannot be chosen to collide."""
        if not 0 <= place <= len(self.memo) + 1:
            raise Damaged("it numbers its values out of sequence")
        self.memo[place] = self.stack[-1]

    def load_put(self) -> None:
        self._remember(int(self.readline()[:-1]))

    def load_binput(self) -> None:
        self._remember(self.read(1)[0])

    def load_long_binput(self) -> None:
        self._remember(struct.unpack("<I", self.read(4))[0])

    # Containers

    def load_tuple(self) -> None:
        items = _Tuple(self.pop_mark())  # this also changes what `append` is
        self.append(items)

    def load_empty_tuple(self) -> None:
        self.append(_Tuple())

    def load_tuple1(self) -> None:
        self.stack[-1:] = [_Tuple(self.stack[-1:])]

    def load_tuple2(self) -> None:
        self.stack[-2:] = [_Tuple(self.stack[-2:])]

    def load_tuple3(self) -> None:
        self.stack[-3:] = [_Tuple(self.stack[-3:])]

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._put(items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put([key, value])

    def load_setitems(self) -> None:
        self._put(self.pop_mark())

    def _put(self, items: list[Any]) -> None:
        """Keys and values, by turns, into the topmost dict."""
        target = self.stack[-1]
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[self._key(key)] = value
        elif not isinstance(target, Inert):
            raise Damaged("it puts keys into something that is no dict")

    def _key(self, key: Any) -> Any:
        if not isinstance(key, str):
            self._keys -= 1
            if self._keys < 0 or (isinstance(key, int) and not -KEY < key < KEY):
                raise Damaged("it has keys as no checkpoint has")
        return key

    def _copied(self, count: int) -> None:
        self._copies -= count
        if self._copies < 0:
            raise Damaged("it copies more than any checkpoint does")

    def _mapping(self, pairs: Any = ()) -> dict[Any, Any]:
        made = {}
        for key, value in pairs.items() if isinstance(pairs, dict) else pairs:
            self._copied(1)
            made[self._key(key)] = value
        return made

    def _tuple(self, elements: Any = ()) -> _Tuple:
        self._copied(len(elements))
        return _Tuple(elements)

    # Tensors

    def persistent_load(self, pid: Any) -> Storage | Inert:
        if isinstance(pid, _Tuple) and pid[:1] == ("module",):  # a class, with its source in old files
            return Inert()
        if not isinstance(pid, _Tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise Damaged("it refers to something that is neither tensor nor module")
        _, dtype, key, _, count, *view = pid
        if isinstance(dtype, Inert):
            raise Damaged("it holds numbers of a type that is not read here, such as complex or quantised ones")
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str) or not _is_count(count):
            raise Damaged("it describes a tensor's storage wrongly")
        if view not in ([], [None]):
            raise Damaged("it holds a view of a storage, as torch before 0.4 wrote them")
        return self._storage(dtype, key, count)

    def _tensor(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        _grad: Any = None,
        _hooks: Any = None,
        marks: Any = None,
    ) -> Stored:
        """Numbers `offset + sum(index * stride)` of a storage, all of which have to be there."""
        if not isinstance(storage, Storage):
            raise Damaged("it builds a tensor of something else than numbers")
        if marks:
            raise Damaged("it holds a tensor whose numbers are to be negated or conjugated")
        rows = isinstance(size, list | tuple) and isinstance(stride, list | tuple) and len(size) == len(stride) <= RANK
        if not rows or not all(map(_is_count, (offset, *size, *stride))):
            raise Damaged("it describes a tensor's shape wrongly")
        shape, steps, count = tuple(size), tuple(stride), math.prod(size)
        if math.prod(max(length, 1) for length in shape) >= HUGE:
            raise Damaged(f"it claims a tensor of shape {shape}")
        last = offset + sum((length - 1) * step for length, step in zip(shape, steps, strict=True)) if count else 0
        if count > storage.numel or last >= max(storage.numel, 1):
            raise Damaged(f"a tensor of shape {shape} reaches beyond the {storage.numel} numbers that it is a part of")
        self._views -= count * storage.dtype.itemsize
        if self._views < 0:
            raise Damaged("it shows the same numbers as too many tensors")

        def load() -> Tensor:
            if not count:
                return torch.empty(shape, dtype=storage.dtype)
            row = torch.frombuffer(storage.read(), dtype=storage.dtype, count=storage.numel)
            part = row.as_strided(shape, steps, offset)
            if count == storage.numel:
                return part.contiguous()
            return part.clone(memory_format=torch.contiguous_format)  # so as not to keep the whole row

        return Stored(storage.dtype, shape, load)

    def _untyped_tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, marks: Any = None
    ) -> Stored:
        if isinstance(dtype, Inert):
            raise Damaged("it holds numbers of a type that is not read here, such as uint16")
        if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
            raise Damaged("it builds a tensor of something else than numbers")
        count = storage.numel * storage.dtype.itemsize // dtype.itemsize
        return self._tensor(storage._replace(dtype=dtype, numel=count), offset, size, stride, grad, hooks, marks)

    def _with_attributes(self, function: Any, _type: Any, arguments: Any, _state: Any) -> Any:
        """A tensor to which someone gave attributes, or made another class of."""
        if function not in (self._known["torch._utils", name] for name in ("_rebuild_tensor_v2", "_rebuild_tensor_v3")):
            return Inert()
        return self._call(function, arguments)

    for _code, _load in (
        (pickle.REDUCE, load_reduce),
        (pickle.NEWOBJ, load_reduce),
        (pickle.NEWOBJ_EX, load_newobj_ex),
        (pickle.INST, load_inst),
        (pickle.OBJ, load_obj),
        (pickle.BUILD, load_build),
        (pickle.FRAME, load_frame),
        (pickle.PUT, load_put),
        (pickle.BINPUT, load_binput),
        (pickle.LONG_BINPUT, load_long_binput),
        (pickle.TUPLE, load_tuple),
        (pickle.FROZENSET, load_tuple),
        (pickle.EMPTY_TUPLE, load_empty_tuple),
        (pickle.TUPLE1, load_tuple1),
        (pickle.TUPLE2, load_tuple2),
        (pickle.TUPLE3, load_tuple3),
        (pickle.EMPTY_SET, dispatch[pickle.EMPTY_LIST[0]]),
        (pickle.ADDITEMS, dispatch[pickle.APPENDS[0]]),
        (pickle.DICT, load_dict),
        (pickle.SETITEM, load_setitem),
        (pickle.SETITEMS, load_setitems),
        (pickle.BYTEARRAY8, refuse),
        (pickle.NEXT_BUFFER, refuse),
        (pickle.READONLY_BUFFER, refuse),
        (pickle.EXT1, refuse),
        (pickle.EXT2, refuse),
        (pickle.EXT4, refuse),
    ):
        dispatch[_code[0]] = _load


def _same(elements: Any = ()) -> Any:
    """list(x) and set(x): what is in x is all that matters here, and nothing is copied."""
    return elements


def _first(value: Any, *_: object) -> Any:
    """A parameter is its tensor."""
    return value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < HUGE
