"""Compare bf16 with fp32 on your own pictures: codes, pictures, likelihoods and samples.

    python scripts/precision.py PRIOR IMAGES [COUNT]

The prior is used without its conditions. Two shares of differing sampled tokens are printed: cell by cell, given the
same codes and noise; and of whole samples, in which a difference also changes what follows.
"""

import copy
import sys
from pathlib import Path

import torch
from torch import Tensor

from taming_cli.codec.locate import picture_codec
from taming_cli.codec.tiling import tiles
from taming_cli.codec.tokenize import training_size
from taming_cli.config.sampling import DecodingConfig
from taming_cli.data.batches import eval_batches
from taming_cli.data.sources import list_items
from taming_cli.metrics import psnr
from taming_cli.prior.any_order.plan import group_plan
from taming_cli.prior.decoding import choose
from taming_cli.prior.draw import draw
from taming_cli.prior.layout import prefix
from taming_cli.prior.likelihood import log_likelihood
from taming_cli.prior.model import Network, prior_from
from taming_cli.prior.networks.any_order import AnyOrder
from taming_cli.prior.networks.pixelsnail import PixelSNAIL
from taming_cli.prior.noise import cell, gumbel
from taming_cli.runtime.checkpoint import load_model
from taming_cli.runtime.device import autocast, pick_device

SEED = 0
SAMPLES = 16
STEPS = 32


def teach(network: Network, codes: Tensor) -> Tensor:
    """Codes (B, h, w) of a window -> the logits of each cell, given those drawn before it: (B, h w, K)."""
    if isinstance(network, AnyOrder):
        _, height, width = codes.shape
        plan = group_plan(height, width, STEPS)
        groups, levels = (torch.from_numpy(of)[None].to(codes.device) for of in (plan.groups, plan.levels))
        return network.forward(codes, {}, groups, levels)
    if isinstance(network, PixelSNAIL):
        return network.forward(codes, {})
    return network.forward(prefix(network.config, {}, len(codes), codes.device), codes.flatten(1))


@torch.no_grad()
def main(prior: str, images: str, count: str = "100") -> None:
    """Print the comparison."""
    device = pick_device("auto")
    codec, model = picture_codec(Path(prior))
    codec = codec.to(device).to(memory_format=torch.channels_last)
    items = list_items([Path(images)]).items[: int(count)]
    codes = dict[str, torch.Tensor]()
    errors = dict[str, torch.Tensor]()
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        found, error = [], []
        for batch in eval_batches(items, size=training_size(model.about, codec), batch_size=8):
            with autocast(device, dtype):
                found.append(tiles.encode(codec, batch.images).cpu())
                error.append(psnr(batch.images, tiles.pictures(codec, found[-1].to(device))))
        codes[name], errors[name] = torch.cat(found), torch.cat(error)
    same = (codes["fp32"] == codes["bf16"]).double().mean()
    decibels = {name: float(error.mean()) for name, error in errors.items()}
    print(f"codec, {len(items)} pictures: {same:.2%} of the codes equal")
    apart = decibels["bf16"] - decibels["fp32"]
    print(f"mean PSNR: {decibels['fp32']:.3f} dB in fp32, {decibels['bf16']:.3f} dB in bf16 ({apart:+.3f})")

    fp32 = prior_from(load_model(Path(prior), "taming-prior"), prior).to(device)
    bf16 = copy.deepcopy(fp32).to(torch.bfloat16)
    window = (fp32.config.window.height, fp32.config.window.width)
    shown = codes["fp32"][:, : window[0], : window[1]].to(device)
    nats = [-float(log_likelihood(network, shown).mean()) for network in (fp32, bf16)]
    print(f"prior: {nats[0]:.4f} nats/token in fp32, {nats[1]:.4f} in bf16 ({nats[1] - nats[0]:+.4f})")

    decoding = DecodingConfig()
    drawn = [
        draw(network, size=window, samples=range(SAMPLES), seed=SEED, decoding=decoding, steps=STEPS)
        for network in (fp32, bf16)
    ]
    rows, columns = torch.meshgrid(*(torch.arange(side, device=device) for side in window), indexing="ij")
    cells, numbers = cell(rows, columns).flatten(), torch.arange(SAMPLES, device=device)[:, None]
    noise = gumbel(SEED, numbers, cells, fp32.config.codebook_size).flatten(0, 1)
    chosen = [choose(teach(network, drawn[0]).flatten(0, 1), noise, decoding.at(0)) for network in (fp32, bf16)]
    print(f"{SAMPLES} samples: {(chosen[0] != chosen[1]).double().mean():.2%} of the tokens differ on equal codes")
    print(f"and {(drawn[0] != drawn[1]).double().mean():.2%} when each precision continues from its own codes")


if __name__ == "__main__":
    main(*sys.argv[1:])
