"""Devices and precisions by name."""

import pytest
import torch

from taming_cli.errors import UsageError
from taming_cli.runtime.device import autocast, full_precision, pick_device, pick_precision, precision_name, seed_of

CPU = torch.device("cpu")


def test_auto_is_the_best_device_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("auto").type == "cuda"


@pytest.mark.parametrize("name", ["warp", "", "cuda:x", "meta"])
def test_a_device_that_does_not_exist_is_refused_with_the_names_that_do(name: str) -> None:
    with pytest.raises(UsageError, match=r"auto, cpu, cuda, cuda:N or mps"):
        pick_device(name)


@pytest.mark.parametrize(("count", "name"), [(0, "cuda"), (0, "cuda:0"), (2, "cuda:2")])
def test_a_gpu_that_is_not_here_is_refused_and_the_count_is_reported(
    count: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(UsageError, match=f"torch finds {count} CUDA devices; use cpu"):
        pick_device(name)


def test_a_gpu_that_is_here_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    assert not taken, "the current device is the caller's"
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "localhost")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert pick_device("cuda") == torch.device("cuda", 1)  # each process has its own
    assert taken == [torch.device("cuda", 1)]


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precisions_and_their_names_are_inverses(name: str, dtype: torch.dtype) -> None:
    assert pick_precision(name, CPU) == dtype
    assert precision_name(dtype) == name


def test_auto_precision_is_bf16_only_where_the_hardware_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for here, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("taming_cli.runtime.device._supports_bf16", lambda _, here=here: here)
        assert pick_precision("auto", CPU) == dtype


def test_an_unknown_precision_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="fp32"):
        pick_precision("fp23", CPU)


def test_autocast_is_off_for_float32_and_inside_full_precision() -> None:
    a = torch.ones(2, 2)
    with autocast(CPU, torch.float32):
        assert (a @ a).dtype == torch.float32
    with autocast(CPU, torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
        with full_precision(CPU):
            assert (a @ a).dtype == torch.float32
    assert (a @ a).dtype == torch.float32


def test_each_process_has_other_random_numbers_and_the_first_one_those_of_the_seed() -> None:
    def drawn(seed: int) -> tuple[float, ...]:
        return tuple(torch.rand(4, generator=torch.Generator().manual_seed(seed)).tolist())

    seeds = [(5, 0), (5, 1), (5, 2), (6, 0), (6, 1), (2**63 - 1, 1)]
    assert len({drawn(seed_of(*numbers)) for numbers in seeds}) == len(seeds)
    assert seed_of(5, 0) == 5
    assert seed_of(5, 1) == seed_of(5, 1)
