"""A codebook whose code is the largest of K logits, as in the published GumbelVQ and in the dVAE."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming_cli.codec.quantizers.nearest import choose_vectors
from taming_cli.codec.quantizers.quantized import Quantized
from taming_cli.runtime.device import to_device
from taming_cli.runtime.distributed import ALONE, World
from taming_cli.runtime.fp32 import exact

LOGITS = 8.0
"""Standard deviation, between the cells of a batch, of the logits with which a sampled codebook begins."""


class GumbelQuantizer(nn.Module):
    """A codebook (K, D) whose code is the largest of K logits of the encoder's output, of so many `channels`, as in the
    published GumbelVQ and in the dVAE.

    In training the code is sampled with Gumbel noise (Jang et al. 2017) at `temperature`: a hard sample forward and the
    gradient of the softmax backward, or, `relaxed`, the softmax in both. In evaluation nothing is random.
    """

    def __init__(self, codebook_size: int, codebook_dim: int, channels: int, *, relaxed: bool = False) -> None:
        super().__init__()
        self.temperature, self.relaxed = 1.0, relaxed
        self.proj = nn.Conv2d(channels, codebook_size, 1)
        self.embed = nn.Embedding(codebook_size, codebook_dim)

    @property
    def embedding(self) -> nn.Embedding:
        """The entries, under their name in `Quantizer`."""
        return self.embed

    @property
    def codebook(self) -> Tensor:
        """The entries (K, D), fp32."""
        return self.embed.weight.float()

    def forward(self, z: Tensor) -> Quantized:
        """(B, channels, h, w) -> Quantized, in fp32. In training `z_e` is `z_q`, so that losses between the two are
        zero."""
        with exact(z.device):
            logits = self.proj(z.float())  # (B, K, h, w)
            if not self.training:
                codes = logits.argmax(1)
                return Quantized(z.float(), self.lookup(codes), codes)
            chosen = F.gumbel_softmax(logits, tau=self.temperature, hard=not self.relaxed, dim=1)
            z_q = torch.einsum("bkhw,kd->bdhw", chosen, self.embed.weight.float())
            return Quantized(z_q, z_q, chosen.argmax(1), logits)

    @torch.no_grad()
    def begin_with(self, z: Tensor, generator: torch.Generator, world: World = ALONE) -> None:
        """Place the codes of a new quantizer on vectors of a batch, of which each process has a part, (B, channels, h,
        w). `generator` (CPU) makes the choice reproducible, and equal in all processes.

        A cell's logits are `-s |z - c_k|^2 / 2`, up to a constant of the cell, for K random vectors c_k of the batch;
        s gives them a standard deviation of LOGITS between cells, on average over codes. The entries are a random
        projection of the c_k. The output of a new encoder varies in few directions, along which two or three of K
        random logits are the largest everywhere. The standard deviation of Gumbel noise is 1.3: logits that vary less
        are lost in it.
        """
        vectors = world.rows(z.float().permute(0, 2, 3, 1).reshape(-1, z.shape[1]))
        mean = vectors.mean(0)
        centred = vectors - mean
        chosen = choose_vectors(centred, len(self.embed.weight), generator)
        with exact(z.device):
            bias = -chosen.pow(2).sum(1) / 2
            scale = LOGITS / (centred @ chosen.t() + bias).std(0).mean().clamp(min=1e-6)
            mix = to_device(torch.randn(z.shape[1], self.embed.weight.shape[1], generator=generator), z.device)
            entries = (chosen - chosen.mean(0)) @ mix
            assert self.proj.bias is not None
            self.proj.weight.copy_(scale * chosen[:, :, None, None])
            self.proj.bias.copy_(scale * (bias - chosen @ mean))
            self.embed.weight.copy_(entries / entries.std().clamp(min=1e-6))

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) in [0, K) -> entries (B, D, h, w) fp32."""
        return F.embedding(codes, self.embed.weight.float()).permute(0, 3, 1, 2)
