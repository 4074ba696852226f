"""The discriminator: a PatchGAN (Isola et al. 2017, section 3.2.2) that scores overlapping patches as real or fake."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming_cli.config.codec import DiscriminatorConfig
from taming_cli.runtime.distributed import ALONE, World


class Discriminator(nn.Module):
    """(B, in_channels, H, W) -> logits (B, 1, h, w), one per patch; keys as published under `loss.discriminator`."""

    def __init__(self, config: DiscriminatorConfig, in_channels: int = 3) -> None:
        super().__init__()
        self.config = config
        ndf, layers = config.disc_ndf, config.disc_num_layers
        strided = BlurredConv2d if config.disc_blur else nn.Conv2d
        modules: list[nn.Module] = [strided(in_channels, ndf, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        channels = ndf
        for index in range(1, layers + 1):
            wider = ndf * min(2**index, 8)
            layer, stride = (strided, 2) if index < layers else (nn.Conv2d, 1)
            modules += [
                layer(channels, wider, 4, stride=stride, padding=1, bias=False),
                BatchNorm(wider),
                nn.LeakyReLU(0.2),
            ]
            channels = wider
        modules.append(nn.Conv2d(channels, 1, 4, padding=1))
        self.main = nn.Sequential(*modules)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [-1, 1] -> logits (B, 1, h, w), unbounded; positive means real."""
        logits: Tensor = self.main(x)
        return logits


class BlurredConv2d(nn.Conv2d):
    """A convolution of its input convolved with the binomial filter (1, 2, 1) / 4 along each side, a low-pass filter
    before downsampling (Zhang 2019; in this place, Karras et al. 2020). Beyond its border the input is 0."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, h, w)."""
        pairs = F.avg_pool2d(input, 2, stride=1, padding=1)  # the filter is a mean of two, twice
        return super().forward(F.avg_pool2d(pairs, 2, stride=1))


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation with the statistics of the pictures of all processes together. torch's `SyncBatchNorm` does
    the same on GPUs only."""

    world: World = ALONE

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.training or self.world.size == 1:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            values = x.float()
            mean = self._mean(values)
            variance = self._mean((values - mean).square())  # both (1, C, 1, 1)
            y = (values - mean) * (variance + self.eps).rsqrt()
            y = y * self.weight[:, None, None] + self.bias[:, None, None]
        self._update_running_statistics(
            mean.detach().flatten(), variance.detach().flatten(), x.numel() // x.shape[1] * self.world.size
        )
        return y.to(x.dtype)

    def _mean(self, values: Tensor) -> Tensor:
        return self.world.mean_with_gradient(values.mean((0, 2, 3), keepdim=True))

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Update the running statistics as torch does, with the unbiased variance."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
