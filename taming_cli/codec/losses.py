"""The losses of the codec and its discriminator: pure functions of tensors, computed in fp32.

Esser, Rombach, Ommer 2021, equations 4 to 7. Nothing here logs, and nothing depends on which optimiser is running.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.codec.dvae import shrunk


class DiscriminatorLogits(NamedTuple):
    """Logits for real and generated pictures, each (B, 1, h, w)."""

    real: Tensor
    fake: Tensor


def l1(x: Tensor, x_rec: Tensor) -> Tensor:
    """Mean absolute difference of pictures (B, C, H, W): a scalar, in the pictures' range of [-1, 1]."""
    return (x.float() - x_rec.float()).abs().mean()


def l2(x: Tensor, x_rec: Tensor) -> Tensor:
    """Mean squared difference of pictures (B, C, H, W): a scalar."""
    return F.mse_loss(x_rec.float(), x.float())


def class_distance(real: Tensor | None, generated: Tensor | None) -> Tensor:
    """Mean squared difference of the logits (B, classes) that a classifier gives two batches (Weber et al. 2024): a
    scalar. Of log-probabilities, it would be ten times as large, nearly all of it the difference of their normalisers.
    """
    assert real is not None
    assert generated is not None
    return F.mse_loss(generated.float(), real.float())


def cross_entropy(x: Tensor, logits: Tensor) -> Tensor:
    """Mean cross-entropy of each pixel's label, nats: a scalar. `x` one-hot and `logits`, both (B, labels, H, W)."""
    return F.cross_entropy(logits.float(), x.float())


def logit_laplace_nll(x: Tensor, statistics: Tensor) -> Tensor:
    """Mean negative log-likelihood of pixel values, nats: a scalar (Ramesh et al. 2021, appendix A.3).

    `x` (B, C, H, W) in [-1, 1] is mapped to y in [0.1, 0.9], whose logit has a Laplace distribution. `statistics` (B,
    2 C, H, W) are its location m and the logarithm of its scale b: -log p(y) = |logit(y) - m| / b + log(2 b y (1 - y)).
    """
    y = shrunk(x.float())
    location, log_scale = statistics.float().chunk(2, dim=1)
    nll = (torch.logit(y) - location).abs() * torch.exp(-log_scale) + log_scale + torch.log(2 * y * (1 - y))
    return nll.mean()


def kl_to_uniform(logits: Tensor) -> Tensor:
    """KL divergence of softmax(logits (B, K, h, w)) from the uniform distribution over K codes, nats: its mean over
    cells, a scalar, 0 to log K."""
    logs = logits.float().log_softmax(1)
    return (logs.exp() * logs).sum(1).mean() + math.log(logits.shape[1])


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy of distributions (..., K), nats: (...), 0 to log K. Probabilities below 1e-12 have no gradient."""
    p = probabilities.float().clamp(min=1e-12)
    return -(p * p.log()).sum(-1)


def codebook_loss(z_e: Tensor, z_q: Tensor, beta: float, *, legacy: bool = False, learned: bool = True) -> Tensor:
    """The codebook and commitment terms, the mean over (B, D, h, w): a scalar.

    `|sg(z_e) - z_q|^2 + beta |z_e - sg(z_q)|^2` (van den Oord et al. 2017, equation 3). `legacy` applies beta to the
    first term instead, as the published code did. `learned=False` omits the first term, for a codebook that learns by
    moving averages.
    """
    z_e, z_q = z_e.float(), z_q.float()
    commitment = F.mse_loss(z_e, z_q.detach())
    if not learned:
        return beta * commitment
    codebook = F.mse_loss(z_q, z_e.detach())
    return commitment + beta * codebook if legacy else codebook + beta * commitment


def discriminator_loss(logits: DiscriminatorLogits, kind: Literal["hinge", "vanilla"]) -> Tensor:
    """The loss of the discriminator: a scalar.

    hinge: `(E relu(1 - real) + E relu(1 + fake)) / 2` (Lim & Ye 2017); vanilla: `(E softplus(-real) + E softplus(fake))
    / 2` (Goodfellow et al. 2014).
    """
    real, fake = logits.real.float(), logits.fake.float()
    if kind == "hinge":
        return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def lecam(logits: DiscriminatorLogits, means: Mapping[str, float]) -> Tensor:
    """The LeCam regularisation of the discriminator: a scalar.

    `E relu(real - m_fake)^2 + E relu(m_real - fake)^2` (Tseng et al. 2021, equation 4, as in their code), where `means`
    holds the moving averages m of earlier logits as `real` and `fake`. Without averages it is 0.
    """
    if not means:
        return logits.real.new_zeros((), dtype=torch.float32)
    real, fake = logits.real.float() - means["fake"], means["real"] - logits.fake.float()
    return F.relu(real).square().mean() + F.relu(fake).square().mean()


def generator_loss(logits_fake: Tensor) -> Tensor:
    """The adversarial loss of the codec, `-E fake`: a scalar."""
    return -logits_fake.float().mean()


def adaptive_weight(grad_rec: Tensor, grad_gen: Tensor) -> Tensor:
    """`|grad rec| / (|grad gen| + 1e-4)`, clamped to [0, 1e4] (equation 7, with the published constants): a scalar.

    The gradients are those at the decoder's last layer, of the reconstruction terms and of `generator_loss`.
    """
    ratio = torch.linalg.vector_norm(grad_rec.float()) / (torch.linalg.vector_norm(grad_gen.float()) + 1e-4)
    weight: Tensor = ratio.clamp(0.0, 1e4).detach()
    return weight
