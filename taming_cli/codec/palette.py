"""A palette: a codec without networks, whose codes are colours found by k-means, as in Image GPT (Chen et al. 2020)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taming_cli.codec.state import CodecState
from taming_cli.config.codec import CodecConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.data.images import to_float, to_uint8
from taming_cli.data.pixels import Pixels, sample_pixels
from taming_cli.data.sources import Item
from taming_cli.errors import UsageError
from taming_cli.metrics import perplexity, usage


def palette_pixels(items: Sequence[Item], codec: CodecConfig, train: CodecTrainConfig) -> Pixels:
    """The pixels that a palette is found for. UsageError for more colours than the pictures have."""
    pixels = sample_pixels(items, pictures=train.batch_size, colours=codec.codebook_size, seed=train.seed)
    if pixels.colours < codec.codebook_size:
        raise UsageError(
            f"codebook_size is {codec.codebook_size}, a palette larger than the number of colours: "
            f"{pixels.pictures} training pictures have {pixels.colours} distinct colours; use --codebook-size "
            f"{pixels.colours} or less"
        )
    return pixels


def first_colours(pixels: Pixels, size: int, seed: int) -> Tensor:
    """The palette before the first step, (size, 3) fp32 in [-1, 1], by k-means++ (Arthur & Vassilvitskii 2007): pixels
    drawn one after another with a probability proportional to their squared distance from the nearest colour so far.

    `kmeans2` of scipy computes all distances again for each colour, which takes K times as long.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    values = pixels.values.astype(np.float64)
    chosen = [int(generator.integers(len(values)))]
    distances = _squared(values, values[chosen[0]])
    while len(chosen) < size:
        cumulative = distances.cumsum()
        chosen.append(int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")))
        np.minimum(distances, _squared(values, values[chosen[-1]]), out=distances)
    return to_float(torch.from_numpy(pixels.values[chosen]))


class Iteration(NamedTuple):
    """The loss terms of one step, scalars on the CPU, and the number of pixels of each code, (K,) fp32."""

    terms: dict[str, Tensor]
    counts: Tensor

    def codebook_use(self) -> dict[str, float]:
        """The values of the log besides the terms."""
        return {"codes_used": usage(self.counts), "codebook_perplexity": perplexity(self.counts)}


@torch.no_grad()
def palette_step(state: CodecState, pixels: Pixels) -> Iteration:
    """An iteration of k-means (Lloyd 1982): each entry moves to the mean of the pixels that are nearest to it. An entry
    without pixels keeps its place.

    The codec to use, `state.average`, has the nearest 8-bit colours. So the pictures that it decodes have the codes
    that they were decoded from.
    """
    from scipy.cluster.vq import vq

    weight = state.codec.entries()
    values = to_float(torch.from_numpy(pixels.values)).double().numpy()
    entries = weight.cpu().double().numpy()
    codes, distances = vq(values, entries)
    counts = np.bincount(codes, minlength=len(entries))
    sums = np.stack([np.bincount(codes, weights=channel, minlength=len(entries)) for channel in values.T], axis=1)
    means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], entries)
    weight.copy_(torch.from_numpy(means))
    state.average.entries().copy_(to_float(to_uint8(weight)))
    state.step += 1
    state.images_seen += pixels.pictures
    l2 = torch.tensor(np.square(distances).mean() / values.shape[1], dtype=torch.float32)
    return Iteration({"l2": l2}, torch.from_numpy(counts).float())


def _squared(values: NDArray[np.float64], colour: NDArray[np.float64]) -> NDArray[np.float64]:
    """The squared distance of each value from a colour: (N, 3), (3,) -> (N,)."""
    squared: NDArray[np.float64] = np.square(values - colour).sum(axis=1)
    return squared
