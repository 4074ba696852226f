"""Pickles that run commands when they are loaded, and pickles that claim or build more than memory holds."""

import builtins
import io
import os
import pickle
import shutil
import struct
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from examples import command
from examples.files import imported

from attacks import Attack, Scene
from taming_cli.evaluate.image_sets import open_image_set

BOMB = 3 * 2**27
"""Bytes that a packed file unpacks to: more than the limit of memory."""
OLD_START = b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
"""The beginning of a file of torch's format before zip."""


class Call:
    """Pickled, this calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def commands(scene: Scene) -> list[Attack]:
    """Pickles that create a file outside, in each place where one could be read."""
    made = scene.outside / "made"
    code = f"open({str(made)!r}, 'w')"
    calls = {
        "os.system": Call(os.system, f"touch {made}"),
        "eval": Call(builtins.eval, code),
        "exec": Call(builtins.exec, code),
        "subprocess": Call(subprocess.call, ["touch", str(made)]),
        "rmtree": Call(shutil.rmtree, str(scene.outside)),
        "getattr": Call(getattr, Call(__import__, "os"), "mkdir"),
    }
    attacks = []
    weights = OrderedDict({"encoder.conv_in.weight": torch.ones(8, 3, 3, 3)})
    for name, call in calls.items():
        values = {"top": call, "weights": {"state_dict": OrderedDict(weights, evil=call)}, "key": {"callbacks": [call]}}
        for where, value in values.items():
            for kind in ("zip", "old"):
                path = scene.folder / f"{name}-{where}-{kind}.ckpt"
                torch.save(value, path, _use_new_zipfile_serialization=kind == "zip")
                attacks.append(Attack(path.stem, path, imported))
        raw = scene.folder / f"{name}.pt"
        raw.write_bytes(pickle.dumps(call, 2))
        attacks.append(Attack(f"{name}-raw", raw, imported))
        attacks += _elsewhere(scene, name, call)
    return attacks


def _elsewhere(scene: Scene, name: str, call: Call) -> list[Attack]:
    """The same call in a trainer file, in arrays, and in a picture set."""
    run = scene.folder / f"run-{name}"
    shutil.copytree(scene.material.prior_run, run)
    torch.save({"step": call}, run / "trainer.pt")
    array = scene.folder / f"{name}.npz"
    with zipfile.ZipFile(array, "w") as archive:
        for member in ("arr_0.npy", "mu.npy", "sigma.npy"):
            stream = io.BytesIO()
            np.save(stream, np.array([call], dtype=object), allow_pickle=True)
            archive.writestr(member, stream.getvalue())
    recorded = scene.folder / f"recorded-{name}"
    shutil.copytree(scene.material.prior_run, recorded)
    shutil.copy(array, recorded / "inputs.npz")

    def resume(path: Path) -> str:
        return command("train-prior", scene.material.tokens, "--resume", "--out", path.parent, "-q")

    def arrays(path: Path) -> object:
        return open_image_set(path, device=torch.device("cpu"))

    return [
        Attack(f"{name}-trainer", run / "trainer.pt", resume, warm=lambda: resume(scene.material.prior_run / "x")),
        Attack(f"{name}-npz", array, arrays),
        Attack(f"{name}-inputs", recorded / "inputs.npz", resume, may_be_read=True, named=str(recorded)),
    ]


def bombs(scene: Scene) -> list[Attack]:
    """Pickles of a few bytes that claim, copy or nest without end."""
    claim = struct.pack("<Q", 2**40)
    layers = b"(t" + b"".join(b"2" * 9 + b"(" + b"t" for _ in range(3))
    programs = {
        "claimed bytes": b"\x80\x04\x8e" + claim,
        "claimed text": b"\x80\x04\x8d" + claim,
        "claimed bytearray": b"\x80\x05\x96" + claim,
        "claimed number": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1),
        "claimed frame": b"\x80\x04\x95" + claim,
        "numbered values": b"\x80\x02}r" + struct.pack("<I", 2**31) + b".",
        "deep lists": b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
        "deep tuples as keys": b"\x80\x02}" + b"(t" + b"\x85" * 10**5 + b"K\x01s.",
        "doubled tuples as keys": b"\x80\x02}" + b")" + b"q\x00h\x00\x86" * 60 + b"K\x01s.",
        "layers": b"\x80\x02" + layers + b".",
        "doubled lists": b"\x80\x02" + b"](" + b"".join(b"h\x00" for _ in range(10)) + b"e.",
        "many values": b"\x80\x02](" + b"N" * 10**6 + b"e.",
        "long line": b"S'" + b"a" * 10**7 + b"'\n.",
        "no end": b"\x80\x02](" * 10**5,
    }
    attacks = []
    for name, program in programs.items():
        old, new = scene.folder / f"{name} old.ckpt", scene.folder / f"{name} zip.ckpt"
        old.write_bytes(OLD_START + program + pickle.dumps([], 2))
        with zipfile.ZipFile(new, "w") as archive:
            archive.writestr("archive/data.pkl", program)
        attacks += [Attack(path.stem, path, imported) for path in (old, new)]
    packed = scene.folder / "packed.ckpt"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", bytes(BOMB))
    run = scene.folder / "run"
    shutil.copytree(scene.material.prior_run, run)
    _pack(run / "trainer.pt", BOMB)

    def resume(path: Path) -> str:
        return command("train-prior", scene.material.tokens, "--resume", "--out", path.parent, "-q")

    warm = scene.material.prior_run / "trainer.pt"
    return [
        *attacks,
        Attack("packed", packed, imported),
        Attack("packed trainer", run / "trainer.pt", resume, warm=lambda: resume(warm)),
    ]


def _pack(path: Path, size: int) -> None:
    """Rewrite a torch file compressed, with a storage of `size` zeros."""
    state = {"step": 1, "gpt": {"w": torch.zeros(size, dtype=torch.uint8)}}
    plain = io.BytesIO()
    torch.save(state, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        for member in source.namelist():
            target.writestr(member, source.read(member))
