"""Model files and trainer files: whole or not there, read back as written, and refused where they are not ours."""

import json
import os
import pickle
import resource
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from taming_cli.codec.vqgan import VQGAN, codec_file
from taming_cli.data.disk import write_atomically
from taming_cli.errors import BadFileError, NonFiniteLossError, UsageError
from taming_cli.interop import pickles
from taming_cli.runtime.checkpoint import (
    FORMAT_VERSION,
    LONGEST_HEADER,
    ModelFile,
    load_model,
    load_trainer,
    read_header,
    save_model,
    save_trainer,
    tensors_sha256,
    write_safetensors,
)
from tests.toys import FLAT, toy_codec

MODEL = ModelFile(
    format="taming-codec",
    config={"codec": {"ch": 32, "ch_mult": [1, 2]}},
    about={"step": 7, "images": ["/a/ö"], "metrics": {"psnr": 1.5}},
    tensors={
        "b": torch.arange(6.0).view(2, 3).t(),
        "a": torch.tensor([1, 2]),
        "h": torch.ones(2, dtype=torch.bfloat16),
    },
)


def test_a_model_file_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "m.safetensors"
    save_model(path, MODEL)
    found = load_model(path, "taming-codec")
    assert (found.format, found.config, found.about) == (MODEL.format, MODEL.config, MODEL.about)
    assert found.tensors.keys() == MODEL.tensors.keys()
    for name, tensor in MODEL.tensors.items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype


def test_the_metadata_follows_the_format_and_any_program_can_read_it(tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", MODEL)
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["format_version"]) == ("taming-codec", str(FORMAT_VERSION))
    assert json.loads(metadata["config"]) == MODEL.config


def test_a_model_file_with_a_flipped_bit_is_refused_or_read_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, MODEL)
    data = path.read_bytes()
    values = len(data) - sum(each.numel() * each.element_size() for each in MODEL.tensors.values())
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            found = load_model(path)
        except BadFileError as error:
            assert "m.safetensors" in str(error)  # noqa: PT017 - at nearly every place
        else:
            assert place < values, place
            assert (found.config, found.about) == (MODEL.config, MODEL.about), place
            assert all(torch.equal(found.tensors[name], tensor) for name, tensor in MODEL.tensors.items()), place
    path.write_bytes(data)
    assert load_model(path).about == MODEL.about


def test_a_model_file_of_a_version_without_checksums_is_read(tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", MODEL)
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        metadata = file.metadata()
    tensors = {name: tensor.contiguous() for name, tensor in MODEL.tensors.items()}
    save_file(tensors, tmp_path / "same.safetensors", metadata)  # as another program would copy it
    assert load_model(tmp_path / "same.safetensors").about == MODEL.about
    del metadata["checksum"]
    save_file({**tensors, "a": torch.tensor([5, 6])}, tmp_path / "lost.safetensors", metadata)  # or damaged in its name
    for read in (load_model, read_header):
        with pytest.raises(BadFileError, match=r"lost\.safetensors has damaged metadata: its checksum is missing"):
            read(tmp_path / "lost.safetensors")
    metadata["format_version"] = "1"
    save_file({**tensors, "a": torch.tensor([5, 6])}, tmp_path / "old.safetensors", metadata)
    assert load_model(tmp_path / "old.safetensors").tensors["a"].tolist() == [5, 6]


@pytest.mark.parametrize("read", [load_model, read_header, pickles.read])
def test_a_lack_of_file_handles_is_no_damage(read: Callable[[Path], Any], tmp_path: Path) -> None:
    """With few handles free, a read succeeds or is refused by the system, wherever in it they run out."""
    path = tmp_path / "m.safetensors"
    save_model(path, MODEL)
    read(path)
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(each.name) for each in Path("/proc/self/fd").iterdir()}
    free = [number for number in range(max(taken) + 9) if number not in taken]
    refused = 0
    for count in range(5):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (free[count], most))
            try:
                read(path)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
        except (OSError, BadFileError) as error:
            assert all(text in str(error) for text in ("Too many open files", str(path)))  # noqa: PT017 - not each time
            refused += 1
    assert 0 < refused < 5


def test_a_header_is_read_without_the_tensors(tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", MODEL)
    header = read_header(tmp_path / "m.safetensors")
    assert (header.about, header.tensors) == (MODEL.about, {})


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", MODEL)
    with pytest.raises(BadFileError, match=r"m\.safetensors is a codec; a prior is needed here"):
        load_model(tmp_path / "m.safetensors", "taming-prior")


def test_missing_damaged_and_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    save_model(tmp_path / "whole.safetensors", MODEL)
    data = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-3])
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    save_file({"a": torch.ones(1)}, tmp_path / "foreign.safetensors")
    save_file({"a": torch.ones(1)}, tmp_path / "bare.safetensors", {"format": "taming-codec"})
    for name in ("no", "cut", "text", "empty", "foreign", "bare"):
        for read in (load_model, read_header):
            with pytest.raises(BadFileError, match=name) as caught:
                read(tmp_path / f"{name}.safetensors")
            assert "\n" not in str(caught.value)


def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    metadata = {"format": "taming-codec", "format_version": str(FORMAT_VERSION + 1), "config": "{}", "about": "{}"}
    save_file({"a": torch.ones(1)}, tmp_path / "m.safetensors", metadata)
    with pytest.raises(BadFileError, match="update"):
        load_model(tmp_path / "m.safetensors")


def test_a_trainer_file_is_read_back_with_its_optimiser(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight])
    weight.grad = torch.ones(3)
    optimizer.step()
    state = {"optimizer": optimizer.state_dict(), "step": 3, "best": float("-inf"), "names": ["a", "b"]}
    save_trainer(tmp_path / "t.pt", state)
    found = load_trainer(tmp_path / "t.pt")
    assert (found["step"], found["best"], found["names"]) == (3, float("-inf"), ["a", "b"])
    assert torch.equal(found["optimizer"]["state"][0]["exp_avg"], optimizer.state[weight]["exp_avg"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_state_that_is_not_finite_is_neither_saved_nor_continued_from(value: float, tmp_path: Path) -> None:
    path = tmp_path / "trainer.pt"
    save_trainer(path, {"step": 3, "discriminator": {"weight": torch.ones(3)}})
    before = path.read_bytes()
    broken = {
        "step": 4,
        "discriminator": {"weight": torch.ones(3)},
        "optimizer": {"state": [torch.tensor([1.0, value])]},
    }
    with pytest.raises(NonFiniteLossError, match=r"optimizer\.state\.0 is not finite after step 4; .*--init"):
        save_trainer(path, broken)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    torch.save(broken, path)  # as an earlier version did
    with pytest.raises(BadFileError, match=r"optimizer\.state\.0 holds values that are not finite.*--init"):
        load_trainer(path)


class Evil:
    """Unpickling this would run a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_trainer_file_runs_nothing_when_it_is_read(tmp_path: Path) -> None:
    torch.save({"step": Evil(tmp_path / "made")}, tmp_path / "t.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps({"step": Evil(tmp_path / "made")}, protocol=2))
    for name in ("t.pt", "raw.pt"):
        with pytest.raises(BadFileError, match=name):
            load_trainer(tmp_path / name)
    assert not (tmp_path / "made").exists()


def test_damaged_trainer_files_are_refused_in_one_line(tmp_path: Path) -> None:
    save_trainer(tmp_path / "t.pt", {"a": torch.arange(1000.0)})
    data = (tmp_path / "t.pt").read_bytes()
    damaged = {"cut": data[: len(data) // 2], "empty": b"", "text": b"hello", "list": None, "missing": None}
    for name, content in damaged.items():
        path = tmp_path / f"{name}.pt"
        if content is not None:
            path.write_bytes(content)
        elif name == "list":
            torch.save([1], path)
        with pytest.raises(BadFileError, match=name) as caught:
            load_trainer(path)
        assert "\n" not in str(caught.value)


def test_a_trainer_file_with_a_flipped_bit_is_refused_or_read_as_it_was(tmp_path: Path) -> None:
    saved = torch.arange(1000.0)
    save_trainer(tmp_path / "t.pt", {"a": saved})
    data, refused = (tmp_path / "t.pt").read_bytes(), 0
    for place in range(0, len(data), 37):
        changed = bytearray(data)
        changed[place] ^= 1
        (tmp_path / "t.pt").write_bytes(changed)
        try:
            assert torch.equal(load_trainer(tmp_path / "t.pt")["a"], saved), place
        except BadFileError:
            refused += 1
    assert refused > 4000 // 37, "all of the values are protected"


def test_a_compressed_trainer_file_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2**20)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in plain.namelist():
            packed.writestr(member, plain.read(member))
    with pytest.raises(BadFileError, match=r"packed\.pt.*compressed"):
        load_trainer(tmp_path / "packed.pt")


@pytest.mark.parametrize("claimed", [LONGEST_HEADER + 1, 10**9, 2**63])
def test_a_header_longer_than_that_of_any_model_is_refused(claimed: int, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(claimed.to_bytes(8, "little") + b'{"__metadata__":{"format":"taming-codec"}}')
    for read in (read_header, load_model, pickles.read):
        with pytest.raises(BadFileError, match=rf"m\.safetensors.* of {claimed} bytes"):
            read(path)


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, "[]", "null", "5", '{"codec": 3}', "9" * 5000])
@pytest.mark.parametrize("part", ["config", "about"])
def test_metadata_of_any_other_form_is_one_line(part: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    metadata = {"format": "taming-codec", "format_version": "1", "config": "{}", "about": "{}", part: text}
    write_safetensors(path, {"a": torch.zeros(1)}, metadata)
    if (part, text) != ("about", '{"codec": 3}'):
        with pytest.raises(BadFileError, match=r"m\.safetensors has damaged metadata"):
            read_header(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ch", 2**16 - 2),
        ("num_res_blocks", 10**8),
        ("ch_mult", [1] * 10**5),
        ("codebook_size", 2**60),
        ("z_channels", 0),
    ],
)
def test_a_network_that_cannot_be_is_refused_before_it_is_built(name: str, value: Any, tmp_path: Path) -> None:
    codec = codec_file(toy_codec(FLAT), {})
    save_model(tmp_path / "m.safetensors", replace(codec, config={"codec": {**codec.config["codec"], name: value}}))
    began = time.process_time()
    with pytest.raises((BadFileError, UsageError), match=r"m\.safetensors"):
        VQGAN.load(tmp_path / "m.safetensors")
    assert time.process_time() - began < 2


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomically(path, lambda temporary: temporary.write_text("old") and None)

    def breaks(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, breaks)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_until_the_write_is_done_the_old_file_remains_under_the_name(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # a rename across file systems would not be atomic

    write_atomically(path, write)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_the_hash_covers_names_types_shapes_bytes_and_config() -> None:
    base = {"a": torch.arange(4.0), "b": torch.ones(2)}
    variants: list[dict[str, torch.Tensor]] = [
        {**base, "a": torch.arange(4.0).view(2, 2)},
        {**base, "a": torch.arange(4.0).view(torch.int32)},
        {**base, "a": torch.tensor([0.0, 1.0, 2.0, 4.0])},
        {"c": base["a"], "b": base["b"]},
        {"a": base["a"]},
    ]
    hashes = [tensors_sha256(tensors, {"k": 1}) for tensors in (base, *variants)]
    hashes.append(tensors_sha256(base, {"k": 2}))
    assert len(set(hashes)) == len(hashes)
    assert all(len(one) == 64 for one in hashes)


def test_the_hash_does_not_depend_on_order_or_memory_layout() -> None:
    picture = torch.randn(2, 3, 4, 4)
    one = tensors_sha256({"a": picture, "b": torch.ones(1)}, {"k": 1, "l": 2})
    other = {"b": torch.ones(1), "a": picture.to(memory_format=torch.channels_last)}
    assert tensors_sha256(other, {"l": 2, "k": 1}) == one


def test_files_of_both_formats_carry_their_format(tmp_path: Path) -> None:
    save_model(tmp_path / "p.safetensors", replace(MODEL, format="taming-prior"))
    assert load_model(tmp_path / "p.safetensors").format == "taming-prior"
