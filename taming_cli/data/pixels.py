"""Pixels of pictures, sampled for a palette."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from taming_cli.data.images import read_rgb
from taming_cli.data.sources import Item
from taming_cli.data.workers import cores, in_order, threads
from taming_cli.errors import BadImageError

SAMPLED = 2**17
"""Pixels of a sample, from all its pictures together."""


class Pixels(NamedTuple):
    """Pixels of `pictures` pictures: `values` uint8 (N, 3) in sRGB. `colours` is the number of distinct colours in all
    pixels of these pictures, and `bad` maps names of unreadable pictures to reasons."""

    values: NDArray[np.uint8]
    colours: int
    pictures: int
    bad: Mapping[str, str]


def sample_pixels(items: Sequence[Item], *, pictures: int, colours: int, seed: int) -> Pixels:
    """Sample about SAMPLED pixels, as many from each of up to `pictures` items. The sample follows from `seed`.

    Pictures are not scaled, which would mix their colours. A sample with fewer than `colours` distinct colours also
    gets one pixel of each colour that occurs. Raises BadImageError if no picture can be read.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    chosen = [items[index] for index in generator.permutation(len(items))[:pictures]]
    most = -(-SAMPLED // len(chosen))
    seen = np.zeros(2**24, dtype=bool)
    samples, bad = list[NDArray[np.uint8]](), dict[str, str]()
    with closing(in_order(threads(cores()), _read, chosen, ahead=4)) as loaded:
        for item, pixels in zip(chosen, loaded, strict=True):
            if isinstance(pixels, str):
                bad[item.name] = pixels
                continue
            seen[_numbers(pixels)] = True
            few = len(pixels) <= most
            samples.append(pixels if few else pixels[generator.choice(len(pixels), most, replace=False)])
    if not samples:
        name, reason = next(iter(bad.items()))
        raise BadImageError(f"none of the {len(chosen)} pictures can be read; the first is {name}: {reason}")
    values = np.concatenate(samples)
    if len(np.unique(_numbers(values))) < colours:
        occurring = np.flatnonzero(seen)
        values = np.concatenate([values, np.stack([occurring >> 16, occurring >> 8 & 255, occurring & 255], 1)])
    return Pixels(values.astype(np.uint8), int(seen.sum()), len(samples), bad)


def _read(item: Item) -> NDArray[np.uint8] | str:
    """All pixels (N, 3) of a picture, or the reason why it cannot be read."""
    try:
        return np.array(read_rgb(item.read(), item.name)).reshape(-1, 3)
    except BadImageError as error:
        return str(error).removeprefix(f"{item.name}: ")


def _numbers(pixels: NDArray[np.uint8]) -> NDArray[Any]:
    """A number in [0, 2^24) for each colour: (N, 3) -> (N,)."""
    return pixels.astype(np.int32) @ np.array([2**16, 2**8, 1], dtype=np.int32)
