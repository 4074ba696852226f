"""The weights that a codec's training starts from, where torch's own do not suit the content."""

import torch
from torch import Tensor, nn

from taming_cli.codec.autoencoder import Decoder, Encoder
from taming_cli.codec.vqgan import VQGAN
from taming_cli.data.contents import Content

_COLOUR = 4.0  # in photographs, brightness varies 3 and 8 times as much as the two directions of colour


@torch.no_grad()
def suit(codec: VQGAN, content: Content) -> None:
    """Change the weights of a new `codec` to suit the `content` that it is trained on; other networks than "vqgan" keep
    theirs."""
    if isinstance(codec.encoder, Encoder):
        _whiten(codec.encoder.conv_in.weight, content)
        if codec.encoder.shortcut is not None:  # of one-hot channels, one is 1: as in `_whiten`
            nn.init.orthogonal_(codec.encoder.shortcut.weight, content.channels**0.5 if content.categorical else 1.0)
    if isinstance(codec.decoder, Decoder):
        _write_alike(codec.decoder.conv_out, codec.decoder.patch_size**2)


def _whiten(weight: Tensor, content: Content) -> None:
    """Scale the first layer's initial weights, (ch, C n, 3, 3), as if all channels of its input had the same variance.
    n is the number of pixels of a patch.

    Of one-hot channels one is 1 and the others 0, so their weighted sum is sqrt(C) times smaller than the
    initialisation assumes. The colours of pictures vary several times less than their brightness. A signal that starts
    small is lost among the residual branches and is learned late.
    """
    colours = weight.view(len(weight), content.channels, -1, *weight.shape[2:])
    if content.categorical:
        colours.mul_(content.channels**0.5)
    elif content.kind == "image":
        colours.copy_(_COLOUR * colours + (1 - _COLOUR) * colours.mean(1, keepdim=True))


def _write_alike(layer: nn.Conv2d, pixels: int) -> None:
    """Give the last layer, with C n outputs, the same initial weights for all n `pixels` of a patch.

    The training then starts from flat patches. Weights that differ from pixel to pixel leave a pattern of the patch's
    period in the pictures, which minutes do not remove (ICNR, Aitken et al. 2017).
    """
    for parameter in layer.parameters():
        parameter.copy_(parameter[::pixels].repeat_interleave(pixels, 0))
