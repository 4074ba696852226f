"""A codec small enough for tests, with random weights."""

import torch

from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.codec import CodecConfig

CODEC = CodecConfig(
    ch=32,
    ch_mult=(1, 1),
    num_res_blocks=1,
    attn_resolutions=(),
    z_channels=4,
    resolution=32,
    codebook_size=64,
    codebook_dim=4,
)


def toy_codec(config: CodecConfig = CODEC) -> VQGAN:
    """The same at each call, in eval mode; its codebook is spread, so that many codes occur."""
    torch.manual_seed(0)
    codec = VQGAN(config)
    torch.nn.init.normal_(codec.quantize.embedding.weight, std=0.3)
    return codec.eval()
