"""The critic: a PatchGAN (Isola et al. 2017, section 3.2.2), which scores overlapping patches as real or generated."""

from torch import Tensor, nn

from taming_cli.config.codec import CriticConfig


class Critic(nn.Module):
    """(B, in_channels, H, W) -> logits (B, 1, h, w), one per patch; keys as published under `loss.discriminator`."""

    def __init__(self, config: CriticConfig, in_channels: int = 3) -> None:
        super().__init__()
        self.config = config
        ndf, layers = config.disc_ndf, config.disc_num_layers
        modules: list[nn.Module] = [nn.Conv2d(in_channels, ndf, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        channels = ndf
        for index in range(1, layers + 1):
            wider = ndf * min(2**index, 8)
            stride = 2 if index < layers else 1
            modules += [
                nn.Conv2d(channels, wider, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(wider),
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


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
