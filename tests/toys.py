"""A codec small enough for tests, and what makes random weights of other networks do for theirs."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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

DEEP = CodecConfig(
    ch=8,
    ch_mult=(1, 1, 2),
    num_res_blocks=1,
    norm_groups=2,
    attn_resolutions=(16, 8),
    z_channels=4,
    resolution=32,
    codebook_size=64,
    codebook_dim=4,
)
FLAT = CodecConfig(
    ch=8, ch_mult=(2,), norm_groups=2, attn_resolutions=(), z_channels=4, codebook_size=64, codebook_dim=4
)


def toy_codec(config: CodecConfig = CODEC) -> VQGAN:
    """The same at each call, in eval mode; its codebook is spread, so that many codes occur."""
    torch.manual_seed(0)
    codec = VQGAN(config)
    torch.nn.init.normal_(codec.quantize.embedding.weight, std=0.3)
    return codec.eval()


def uneven(config: CodecConfig) -> VQGAN:
    """A codec whose norms and attention matter: their weights, zero or one when new, are drawn."""
    codec = toy_codec(config)
    with torch.no_grad():
        for network in (codec.decoder, codec.encoder):
            for name, weight in network.named_parameters():
                if ".attn" in name and weight.ndim == 4:
                    weight.normal_(std=weight[0].numel() ** -0.5)
                elif weight.ndim == 1:
                    weight.add_(0.3 * torch.randn_like(weight))
    return codec


def loud(network: nn.Module) -> nn.Module:
    """Random values, scaled by what each normalisation sees: a network that tells pictures apart, mildly."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for value in network.parameters():
            if value.ndim > 1:
                value.normal_(0, (2.0 / value[0].numel()) ** 0.5)
            else:
                value.add_(0.1 * torch.randn(value.shape))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the statistics of what comes next, nothing of before
        network.train()
        network(pictures(128, 128, batch=8) / 127.5 - 1)
    return network.eval()


def pictures(height: int, width: int, batch: int = 3) -> Tensor:
    """uint8 (B, 3, H, W): smooth colours with some grain."""
    generator = torch.Generator().manual_seed(height)
    coarse = F.interpolate(torch.rand(batch, 3, 7, 7, generator=generator), (height, width), mode="bicubic")
    grain = torch.rand(batch, 3, height, width, generator=generator) * 0.2 - 0.1
    return ((coarse + grain).clamp(0, 1) * 255).to(torch.uint8)


def few_persons(network: Any) -> None:
    """Of any keypoint R-CNN, to have less to compute: it sees pictures of 64 pixels, and four persons in them."""
    network.transform.min_size, network.transform.max_size = (64,), 128
    network.roi_heads.detections_per_img = 4
    network.rpn._post_nms_top_n["testing"] = 50


def depth_models(root: Path) -> Path:
    """Folders `anything` and `dpt` below `root`, each a model of transformers as save_pretrained writes it."""
    import transformers

    from taming_cli.pretrained.depth import quiet_transformers

    few = {"neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8, "reassemble_factors": [4, 2, 1, 0.5]}
    stages = [f"stage{number}" for number in range(1, 5)]
    size = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    dino = transformers.Dinov2Config(
        **size, image_size=56, patch_size=14, out_features=stages, reshape_hidden_states=False
    )
    anything = transformers.DepthAnythingConfig(
        backbone_config=dino, reassemble_hidden_size=16, head_hidden_size=8, patch_size=14, **few
    )
    dpt = transformers.DPTConfig(
        **size, intermediate_size=32, image_size=64, patch_size=16, backbone_out_indices=[0, 1, 2, 3], **few
    )
    made = {
        "anything": (
            transformers.DepthAnythingForDepthEstimation(anything),
            {"size": {"height": 56, "width": 56}, "keep_aspect_ratio": True, "ensure_multiple_of": 14},
        ),
        "dpt": (transformers.DPTForDepthEstimation(dpt), {"size": {"height": 64, "width": 64}}),
    }
    torch.manual_seed(4)
    with quiet_transformers():
        for name, (model, prepared) in made.items():
            for key, value in model.named_parameters():
                if value.ndim > 1:
                    nn.init.normal_(value, std=(2 / value[0].numel()) ** 0.5)
                if key in ("head.conv3.weight", "head.head.4.weight"):
                    value.data.abs_()  # between two ReLUs, of which the last would cut what is negative
            model.save_pretrained(root / name)
            transformers.DPTImageProcessor(**prepared).save_pretrained(root / name)
    return root
