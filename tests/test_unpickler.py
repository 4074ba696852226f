"""Malicious pickles: none runs or changes anything, or takes time and memory out of proportion to its size."""

import functools
import io
import operator
import os
import pickle
import signal
import struct
import subprocess
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from taming_cli.interop import unpickler
from taming_cli.interop.unpickler import DamagedError, Placeholder, Storage, unpickle
from taming_cli.runtime.checkpoint import SAFETENSORS
from taming_cli.runtime.stored import Stored


def numbers(dtype: torch.dtype, _: str, count: int) -> Storage:
    """Any storage that a pickle asks for: 0, 1, 2 and so on."""
    return Storage(dtype, count, lambda: bytearray(torch.arange(count).to(dtype).numpy().tobytes()))


def load(data: bytes) -> Any:
    return unpickle(io.BytesIO(data), len(data), numbers)


@contextmanager
def seconds(limit: float) -> Iterator[None]:
    """Fail what takes more processor time."""

    class TooSlow(BaseException):  # no Exception: the unpickler would take that for the file's fault
        pass

    def stop(_: int, __: FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


# Pieces of pickles, and values and opcodes that follow each other


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<I", len(data)) + data


def name(path: str) -> bytes:
    module, _, attribute = path.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def items(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def call(path: str, *arguments: bytes) -> bytes:
    return name(path) + items(*arguments) + b"R"


def storage(count: int, kind: str = "torch.FloatStorage") -> bytes:
    return items(text("storage"), name(kind), text("0"), text("cpu"), integer(count)) + b"Q"


def tensor(size: list[int], stride: list[int], offset: int = 0, count: int = 8) -> bytes:
    shape, steps = items(*map(integer, size)), items(*map(integer, stride))
    return call("torch._utils._rebuild_tensor_v2", storage(count), integer(offset), shape, steps, b"\x89", b"N")


# Files that would run a command


class Calls:
    """Is pickled as a call of any function, which may itself be the result of a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced

    def __call__(self) -> None:
        """To be callable is all that a pickler asks of a function."""


def commands(marker: Path) -> dict[str, bytes]:
    """Pickles at whose reading by Python's own reader the file `marker` appears."""
    touch = f"touch {marker}"
    system = Calls(os.system, touch)
    calls = {
        "eval": Calls(eval, f"open({str(marker)!r}, 'w').close()"),
        "exec": Calls(exec, f"open({str(marker)!r}, 'w').close()"),
        "open": Calls(Calls(getattr, Calls(open, str(marker), "w"), "close")),
        "subprocess": Calls(subprocess.getoutput, touch),
        "getattr": Calls(Calls(getattr, Calls(__import__, "os"), "system"), touch),
        "map": Calls(list, Calls(map, os.system, [touch])),
        "partial": Calls(Calls(functools.partial, os.system, touch)),
        "methodcaller": Calls(Calls(operator.methodcaller, "touch"), marker),
        "nested": Calls(pickle.loads, pickle.dumps(system)),
        "in a dict": {"state_dict": {"w": [system]}},
    }
    state = items(name("os.system"), items(text(touch)), b"}", b"N")
    return {
        **{f"system, protocol {protocol}": pickle.dumps(system, protocol) for protocol in range(6)},
        **{
            f"{kind}, protocol {protocol}": pickle.dumps(calls[kind], protocol) for kind in calls for protocol in (2, 4)
        },
        "inst": b"(" + text(touch) + b"ios\nsystem\n.",
        "obj": b"(" + name("os.system") + text(touch) + b"o.",
        "name from the stack": text("os") + text("system") + b"\x93" + items(text(touch)) + b"R.",
        "name with dots": b"\x80\x04" + text("os") + text("path.os.system") + b"\x93" + items(text(touch)) + b"R.",
        "new object": name("functools.partial") + items(name("os.system"), text(touch)) + b"\x81)R.",
        "new object with names": name("functools.partial")
        + items(name("builtins.open"), text(str(marker)))
        + b"}"
        + text("mode")
        + text("w")
        + b"s\x92)R0N.",
        "state": name("functools.partial") + items(name("builtins.print")) + b"\x81" + state + b"b)R.",
        "before a tensor": call("os.system", text(touch)) + b"0" + tensor([8], [1]) + b".",
        "key": b"}" + call("os.system", text(touch)) + b"K\x01s.",
        "argument of a known name": call("collections.OrderedDict", call("os.system", text(touch)) + b"0]") + b".",
    }


@pytest.mark.parametrize("kind", commands(Path()))
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_pickle_that_would_run_a_command_runs_nothing(kind: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    data = commands(marker)[kind]
    with suppress(DamagedError):
        load(data)
    assert not marker.exists()
    with suppress(pickle.UnpicklingError, AttributeError):  # tensors, which pickle cannot read, and hooks
        pickle.loads(data)
    assert marker.exists(), "this pickle is harmless, and shows nothing"


@pytest.mark.parametrize("protocol", range(6))
def test_a_command_becomes_a_placeholder_and_the_rest_is_read(protocol: int) -> None:
    value = load(pickle.dumps({"callbacks": Calls(os.system, "exit 1"), "epoch": 3}, protocol))
    assert isinstance(value["callbacks"], Placeholder)
    assert value["epoch"] == 3


OURS = [
    "collections.OrderedDict",
    "builtins.list",
    "builtins.dict",
    "torch.Size",
    "torch.float32",
    "torch.FloatStorage",
    "torch._utils._rebuild_tensor_v2",
    "taming_cli.interop.unpickler.Placeholder",
    "torch.Tensor",
    "os.path",
]


@pytest.mark.parametrize("path", OURS)
@pytest.mark.parametrize("made", [b"", b")R", b")\x81", b")}\x92"], ids=["itself", "called", "new", "new with names"])
@pytest.mark.parametrize(
    "state",
    [
        b"}" + text("append") + b"Ns",
        items(b"N", b"}" + text("append") + b"Ns"),
        items(b"}" + text("__class__") + b"Ns", b"}" + text("function") + b"Ns"),
    ],
    ids=["attributes", "slots", "both"],
)
def test_nothing_of_the_process_is_changed(path: str, made: bytes, state: bytes) -> None:
    def everything() -> list[Any]:
        ours = (unpickler, unpickler._Unpickler, unpickler._TupleKey, unpickler._Memo, Placeholder, Storage, Stored)
        tables = (unpickler._Unpickler.dispatch, unpickler.STORAGES, unpickler.TORCH_TYPES, SAFETENSORS)
        return [dict(vars(each)) for each in (*ours, torch.Tensor, os.path)] + [dict(table) for table in tables]

    before = everything()
    for change in (state + b"b", b"Na", b"(Ne", b"K\x01Ns", b"(K\x01Nu", b"(N\x90"):
        with suppress(DamagedError):
            load(name(path) + made + change + b".")
    assert everything() == before
    value = load(tensor([2, 2], [2, 1]) + b".")
    assert value.shape == (2, 2)
    assert value.load().tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    "data",
    [
        b"\x82\x01.",
        b"\x83\x01\x00.",
        b"\x84\x01\x00\x00\x00.",
        b"\x97.",
        b"]\x98.",
        b"\x96" + struct.pack("<Q", 8) + b"." * 9,
    ],
    ids=["ext1", "ext2", "ext4", "next buffer", "readonly", "bytearray"],
)
def test_opcodes_that_no_checkpoint_needs_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedError, match="no checkpoint needs"):
        load(data)


@pytest.mark.parametrize("key", ["0", "storage"])
def test_only_a_storage_is_found_by_its_key(key: str) -> None:
    for pid in (f"P{key}\n".encode(), text(key) + b"Q", items(text("tensor"), *[text(key)] * 4) + b"Q"):
        with pytest.raises(DamagedError, match="neither tensor"):
            load(pid + b".")


# What comes as what


def test_sets_become_lists_and_frozen_sets_tuples_in_every_protocol() -> None:
    for protocol in range(6):
        value = load(pickle.dumps({"set": {3}, "frozen": frozenset([4]), frozenset([5]): 6, (7, 8): 9}, protocol))
        assert value["set"] == [3]
        assert tuple(value["frozen"]) == (4,)
        assert {tuple(key): value[key] for key in value if not isinstance(key, str)} == {(5,): 6, (7, 8): 9}


@pytest.mark.parametrize(
    "data",
    [  # as Python 2.7's cPickle writes it, which counts its memo from one
        b"(dp1\nS'again'\np2\nccollections\nOrderedDict\np3\n((lp4\n(lp5\nS'w'\na(I1\nL2L\ntp6\naa(lp7\nVb\na(lp8\nF1.5\na"
        b"NaI01\naaatRp9\nsS's'\nc__builtin__\nset\np10\n((lp11\nI3\natRp12\nsS'state_dict'\np13\ng9\nsS'f'\n"
        b"c__builtin__\nfrozenset\np14\n((lp15\nI4\natRp16\ns.",
        b"}q\x01(U\x05againq\x02ccollections\nOrderedDict\nq\x03(]q\x04(]q\x05(U\x01w(K\x01L2L\ntq\x06e]q\x07(X\x01\x00\x00"
        b"\x00b]q\x08(G?\xf8\x00\x00\x00\x00\x00\x00NI01\neeetRq\tU\x01sc__builtin__\nset\nq\n(]q\x0bK\x03atRq\x0cU\n"
        b"state_dictq\rh\tU\x01fc__builtin__\nfrozenset\nq\x0e(]q\x0fK\x04atRq\x10u.",
        b"\x80\x02}q\x01(U\x05againq\x02ccollections\nOrderedDict\nq\x03]q\x04(]q\x05(U\x01wK\x01\x8a\x01\x02\x86q\x06e]q"
        b"\x07(X\x01\x00\x00\x00b]q\x08(G?\xf8\x00\x00\x00\x00\x00\x00N\x88eee\x85Rq\tU\x01sc__builtin__\nset\nq\n]q\x0bK"
        b"\x03a\x85Rq\x0cU\nstate_dictq\rh\tU\x01fc__builtin__\nfrozenset\nq\x0e]q\x0fK\x04a\x85Rq\x10u.",
    ],
    ids=["protocol 0", "protocol 1", "protocol 2"],
)
def test_pickles_of_python_2_are_read(data: bytes) -> None:
    value = load(data)
    assert list(value["state_dict"]) == ["w", "b"]
    assert tuple(value["state_dict"]["w"]) == (1, 2)
    assert value["state_dict"]["b"] == [1.5, None, True]
    assert value["again"] is value["state_dict"]
    assert value["s"] == [3]
    assert tuple(value["f"]) == (4,)


# Files that lie about sizes


@pytest.mark.parametrize(
    ("size", "stride", "offset", "count", "reason"),
    [
        ([9], [1], 0, 8, "reaches beyond the 8 values"),
        ([8], [1], 1, 8, "reaches beyond"),
        ([2, 2], [7, 1], 0, 8, "reaches beyond"),
        ([1000, 1000, 1000], [0, 0, 0], 0, 1, "reaches beyond"),  # one number, expanded
        ([3, 3], [0, 1], 0, 8, "reaches beyond"),
        ([1], [1], 8, 8, "reaches beyond"),
        ([0], [1], 0, 2**63, "storage is invalid"),
        ([2], [-1], 1, 8, "shape is invalid"),
        ([-2, -2], [1, 1], 0, 8, "shape is invalid"),
        ([2], [1], -1, 8, "shape is invalid"),
        ([2**62], [1], 0, 8, "shape is invalid"),
        ([2**62 - 1], [0], 0, 1, "reaches beyond"),
        ([2], [1, 1], 0, 8, "shape is invalid"),
        ([1] * 33, [1] * 33, 0, 8, "shape is invalid"),
        ([0, 2**40, 2**40], [1, 1, 1], 0, 0, "it claims a tensor of shape"),
    ],
)  # fmt: skip
def test_a_tensor_lies_within_its_storage(
    size: list[int], stride: list[int], offset: int, count: int, reason: str
) -> None:
    with pytest.raises(DamagedError, match=reason):
        load(tensor(size, stride, offset, count) + b".")


def test_the_largest_accepted_shapes_and_strides_can_be_loaded() -> None:
    assert load(tensor([1] * 32, [2**62 - 1] * 32, 7) + b".").load().flatten().tolist() == [7]
    assert load(tensor([0, 2**61], [1, 1], 0, 0) + b".").load().numel() == 0
    assert load(tensor([2] * 3, [1, 2, 4]) + b".").load()[1, 1, 0] == 3


def test_a_view_does_not_keep_the_whole_storage_in_memory() -> None:
    assert load(tensor([2], [1], 3, 1000) + b".").load().untyped_storage().nbytes() == 8


@pytest.mark.parametrize(
    "data",
    [
        call("torch._utils._rebuild_tensor_v2", b"]", b"K\x00", b")", b")", b"\x89", b"N"),
        call("torch._utils._rebuild_tensor_v2", storage(1), b"K\x00", text("8"), text("1"), b"\x89", b"N"),
        call("torch._utils._rebuild_tensor_v2", storage(1), b"\x89", b")", b")", b"\x89", b"N"),
        call("torch._utils._rebuild_tensor_v2", storage(1), b"K\x00"),
        call("torch._utils._rebuild_tensor_v3", storage(1), b"K\x00", b")", b")", b"\x89", b"N", b"K\x01"),
        items(text("storage"), name("torch.float32"), b"K\x00", text("cpu"), b"K\x01") + b"Q",
        items(text("storage"), b"N", text("0"), text("cpu"), b"K\x01") + b"Q",
        items(text("storage"), name("torch.FloatStorage"), text("0"), text("cpu"), b"\x88") + b"Q",
        items(text("storage"), name("torch.FloatStorage"), text("0"), text("cpu"), b"K\x01", b"]") + b"Q",
        items(text("storage")) + b"Q",
    ],
)  # fmt: skip
def test_tensors_of_other_objects_than_storages_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedError):
        load(data + b".")


def test_values_of_unsupported_types_are_refused() -> None:
    with pytest.raises(DamagedError, match="a type that is not supported"):
        load(storage(1, "torch.ComplexFloatStorage") + b".")
    shape = (storage(8, "torch.UntypedStorage"), b"K\x00", b")", b")", b"\x89", b"N")
    with pytest.raises(DamagedError, match="a type that is not supported"):
        load(call("torch._utils._rebuild_tensor_v3", *shape, name("torch.float8_e5m2")) + b".")


def test_trailing_bytes_of_an_untyped_storage_are_ignored() -> None:
    shape = (storage(7, "torch.UntypedStorage"), b"K\x00", items(b"K\x03"), items(b"K\x01"), b"\x89", b"N")
    assert load(call("torch._utils._rebuild_tensor_v3", *shape, name("torch.int16")) + b".").load().numel() == 3


@pytest.mark.parametrize("code", [b"B", b"X", b"T", b"\x8b", b"\x8d", b"\x8e", b"\x96", b"\x95"])
def test_claimed_sizes_allocate_nothing(code: bytes, tmp_path: Path) -> None:
    claim = struct.pack("<Q", 2**34) if code in b"\x8d\x8e\x95\x96" else struct.pack("<i", 2**31 - 1)
    path = tmp_path / "pickle"
    path.write_bytes(code + claim + b"N.")
    tracemalloc.start()
    try:
        with path.open("rb") as stream, suppress(DamagedError):
            unpickle(stream, path.stat().st_size, numbers)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


# Pickles that would keep us busy: in seconds of their bytes' own kind each took from ten seconds to ages


def again(prepare: bytes, repeat: bytes, count: int = 100_000) -> bytes:
    """A long value, remembered as number 0, and then what is done with it again and again."""
    return prepare + b"q\x000" + repeat * count + b"N."


LONG = b"N" * 200_000
BUSY = {
    "keys that collide": b"}(" + b"".join(integer(n * (2**61 - 1)) + b"N" for n in range(100_000)) + b"u.",
    "pairs that collide": call(
        "builtins.dict", b"](" + b"".join(integer(n * (2**61 - 1)) + b"N\x86" for n in range(100_000)) + b"e"
    )
    + b".",
    "elements that collide": b"\x8f(" + b"".join(integer(n * (2**61 - 1)) for n in range(100_000)) + b"\x90.",
    "places that collide": b"N" + b"".join(b"p%d\n" % (n * (2**61 - 1)) for n in range(100_000)) + b".",
    "a huge key": b"}" + again(integer(2 ** (8 << 17)), b"h\x00Ns", 500_000),
    "huge elements": b"\x8f" + again(integer(2 ** (8 << 17)), b"(h\x00\x90", 500_000),
    "long arguments of a placeholder": again(items(LONG), name("a.b") + b"h\x00R0"),
    "a long new placeholder": again(items(LONG), name("a.b") + b"h\x00\x810"),
    "long arguments of a function": again(items(LONG), name("torch._utils._rebuild_parameter") + b"h\x00R0"),
    "a long list to copy": again(b"](" + LONG + b"e", name("torch.Size") + b"h\x00\x85R0"),
    "a long dict to copy": again(b"](" + b"NN\x86" * 50_000 + b"e", name("collections.OrderedDict") + b"h\x00\x85R0"),
    "a long storage": again(storage(8)[:-2] + LONG + b"t", b"h\x00Q0"),
    "a long shape": again(
        b"(" + b"K\x01" * 200_000 + b"t",
        name("torch._utils._rebuild_tensor_v2") + b"(" + storage(8) + b"K\x00h\x00h\x00\x89NtR0",
        20_000,
    ),
    "a long line": b"F" + b"1" * 10_000_000,
    "deep keys": b"}" + 2 * (b")" + b"\x85" * 200_000 + b"Ns") + b".",
}


@pytest.mark.parametrize("kind", BUSY)
def test_no_pickle_takes_long(kind: str) -> None:
    with seconds(8), suppress(DamagedError):
        load(BUSY[kind])


def test_containers_as_keys_are_not_compared() -> None:
    # Two frozen sets at each level, of both of the level below: to compare two such towers takes 2^27 steps.
    tower = b"(K\x01\x91q\x000(K\x02\x91q\x010" + 27 * b"(h\x00h\x01\x91(h\x00h\x01K\x03\x91q\x010q\x000" + b"h\x00"
    with seconds(8):
        assert len(load(b"}(" + tower + b"N" + tower + b"Nu.")) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"]" * 300_000 + b"a" * 299_999,
        b")" + b"\x85" * 300_000,
        b"}X\x00\x00\x00\x00" * 300_000 + b"N" + b"s" * 300_000,
        b"(" * 300_000 + b"\x91" * 300_000,
        b"(" * 300_000 + b"l" * 300_000,
        name("a.b") + b")R" * 300_000,
        b"]q\x00" + b"h\x00a" * 300_000,
    ],
    ids=["lists", "tuples", "dicts", "frozen sets", "marks", "placeholders", "itself"],
)
def test_deep_nesting_does_not_crash(data: bytes) -> None:
    load(data + b".")


@pytest.mark.parametrize("code", [b"]", b"}", b"\x8f", b"(", b")"], ids=["list", "dict", "set", "mark", "tuple"])
def test_a_byte_costs_little_memory(code: bytes) -> None:
    tracemalloc.start()
    try:
        with suppress(DamagedError):
            load(code * 100_000 + b"N.")
        assert tracemalloc.get_traced_memory()[1] < 130 * 100_000
    finally:
        tracemalloc.stop()


def test_the_number_of_reads_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (b"N" * 2000, b"I1\n" * 1500):
        assert load(data + b".") is not None or data.startswith(b"N")
        monkeypatch.setattr(unpickler, "MAX_READS", 1000)
        with pytest.raises(DamagedError, match="longer than"):
            load(data + b".")
        monkeypatch.undo()


def test_the_number_of_keys_other_than_strings_is_limited() -> None:
    def keys(count: int) -> bytes:
        return b"}(" + b"".join(integer(number) + b"N" for number in range(count)) + b"u."

    assert len(load(keys(20_000))) == 20_000
    with pytest.raises(DamagedError, match="keys"):
        load(keys(unpickler.MAX_KEYS + 1))
