"""The authors' code beside ours, for `scripts/bench --peer FOLDER`: their own modules out of a checkout, unchanged.

What they import that is gone or needs a download has stand-ins: PyTorch Lightning's module is torch's, transformers'
filter is not called, and VGG16 has random weights. They ship in fp32, and so they run. Their other imports, NEEDED, are
the caller's to install.
"""

import contextlib
import importlib.util
import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import torchvision
from torch import Tensor, nn

from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.codec import CodecConfig, DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.prior.networks.gpt import GPT

NEEDED = ("einops", "requests", "tqdm")
"""Packages that the authors' modules import and this project does not depend on."""


class Peer:
    """Their codec with its loss, and their transformer, with the weights of ours."""

    def __init__(self, checkout: Path) -> None:
        if not (checkout / "taming" / "models" / "vqgan.py").exists():
            raise SystemExit(f"bench: {checkout} is no checkout of the authors' code: it has no taming/models/vqgan.py")
        if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
            raise SystemExit(
                f"bench: the authors' code needs {', '.join(missing)}; install with `{sys.executable} -m pip install "
                f"{' '.join(missing)}`"
            )
        lightning = ModuleType("pytorch_lightning")
        lightning.LightningModule = nn.Module  # type: ignore[attr-defined]
        gone = ModuleType("transformers")
        gone.top_k_top_p_filtering = None  # type: ignore[attr-defined]
        entry = ModuleType("main")
        entry.instantiate_from_config = lambda make: make()  # type: ignore[attr-defined]
        sys.modules |= {"pytorch_lightning": lightning, "transformers": gone, "main": entry}
        sys.path.insert(0, str(checkout))
        from taming.models.vqgan import VQModel  # type: ignore[import-not-found]
        from taming.modules.losses import lpips, vqperceptual  # type: ignore[import-not-found]
        from taming.modules.transformer import mingpt  # type: ignore[import-not-found]

        self._model, self._lpips, self._losses, self.mingpt = VQModel, lpips, vqperceptual, mingpt

    def codec(self, ours: VQGAN, discriminator: DiscriminatorConfig, train: CodecTrainConfig) -> Any:
        """Their `VQModel` of the same architecture."""
        config: CodecConfig = ours.config
        names = ("ch", "out_ch", "ch_mult", "num_res_blocks", "attn_resolutions", "in_channels", "resolution")
        ddconfig = {name: getattr(config, name) for name in (*names, "z_channels", "dropout")} | {"double_z": False}

        def loss() -> Any:
            return self._losses.VQLPIPSWithDiscriminator(
                disc_start=0,
                disc_weight=train.disc_weight,
                disc_num_layers=discriminator.disc_num_layers,
                disc_ndf=discriminator.disc_ndf,
            )

        backbone = torchvision.models.vgg16(weights=None)
        with (
            mock.patch.object(torchvision.models, "vgg16", return_value=backbone),
            mock.patch.object(self._lpips.LPIPS, "load_from_pretrained"),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            theirs = self._model(ddconfig, loss, config.codebook_size, config.codebook_dim)
        found = theirs.load_state_dict(ours.state_dict(), strict=False)
        assert not found.unexpected_keys, found.unexpected_keys
        assert all(key.startswith("loss.") for key in found.missing_keys), found.missing_keys
        theirs.learning_rate = train.learning_rate
        theirs.global_step = 1
        theirs.log = theirs.log_dict = lambda *said, **more: None
        return theirs

    def codec_step(self, theirs: Any, x: Tensor) -> Callable[[], object]:
        """A step of both optimisers on (B, 3, H, W), as their training loop takes it."""
        generator, discriminator = theirs.configure_optimizers()[0]
        batch = {"image": x.permute(0, 2, 3, 1)}

        def step() -> None:
            for index, optimizer in enumerate((generator, discriminator)):
                loss = theirs.training_step(batch, 0, index)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        return step

    def prior(self, ours: GPT) -> Any:
        """Their `GPT` of the same architecture."""
        config = ours.config
        rows, length = ours.tok_emb.weight.shape[0], ours.pos_emb.shape[1]
        theirs = self.mingpt.GPT(rows, length, n_layer=config.n_layer, n_head=config.n_head, n_embd=config.n_embd)
        weights = ours.state_dict()
        found = theirs.load_state_dict(weights, strict=False)
        assert not found.unexpected_keys, found.unexpected_keys
        assert all(key.endswith("attn.mask") for key in found.missing_keys), found.missing_keys
        return theirs

    def window(self, theirs: Any, cells: int, batch: int) -> Callable[[], object]:
        """So many cells of a sliding window, each by a full forward of condition and window, as their script does."""
        tokens = torch.zeros(batch, theirs.block_size, dtype=torch.int64)

        @torch.no_grad()
        def draw() -> None:
            for _ in range(cells):
                logits, _ = theirs(tokens)
                torch.multinomial(logits[:, -1].softmax(-1), 1)

        return draw

    def cached(self, theirs: Any, prefix: Tensor, cells: int) -> Callable[[], object]:
        """The first cells of a window with their cache."""
        return lambda: self.mingpt.sample_with_past(prefix, theirs, cells)

    def prior_step(self, theirs: Any, tokens: Tensor, prefix_length: int, learning_rate: float) -> Callable[[], object]:
        """A training step on whole sequences (B, T)."""
        optimizer = torch.optim.AdamW(theirs.parameters(), lr=learning_rate, betas=(0.9, 0.95))

        def step() -> None:
            logits, _ = theirs(tokens[:, :-1])
            logits = logits[:, prefix_length - 1 :]
            loss = nn.functional.cross_entropy(
                logits.reshape(-1, logits.shape[-1]), tokens[:, prefix_length:].flatten()
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return step
