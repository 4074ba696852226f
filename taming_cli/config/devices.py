"""Devices and the rates that their makers publish, with which the time of a training is estimated."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from taming_cli.config.fields import one_of
from taming_cli.errors import UsageError

REACHED = 0.4
"""The share of the published rate of products that a training is assumed to reach."""


class Rates(NamedTuple):
    """Products in bf16 and in fp32 without TF32, both dense, operations per second; bytes read per second; bytes of
    memory."""

    bf16: float
    fp32: float
    read: float
    memory: float


DEVICES: Mapping[str, Rates] = MappingProxyType(
    {
        "h200": Rates(989e12, 67e12, 4.8e12, 141e9),
        "h100": Rates(989e12, 67e12, 3.35e12, 80e9),
        "a100": Rates(312e12, 19.5e12, 2.04e12, 80e9),
        "l40s": Rates(362e12, 91.6e12, 864e9, 48e9),
        "l4": Rates(121e12, 30.3e12, 300e9, 24e9),
        "rtx5090": Rates(209e12, 105e12, 1.79e12, 32e9),
        "rtx4090": Rates(165e12, 82.6e12, 1.01e12, 24e9),
        "rtx3090": Rates(71e12, 35.6e12, 936e9, 24e9),
    }
)
"""From the makers' data sheets: the SXM models of data centre GPUs; of the others, products with fp32 accumulation."""


def device_named(name: str) -> Rates:
    """The rates of a device. UsageError with the nearest name for an unknown one."""
    if name not in DEVICES:
        raise UsageError(f"device name {name!r} is unknown; {one_of(DEVICES, name)}")
    return DEVICES[name]
