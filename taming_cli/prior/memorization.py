"""Whether a prior is expected to memorize its training pictures, and whether it has done so."""

import math
from collections.abc import Mapping

BITS_PER_PARAMETER = 3.6
"""What a transformer can memorize (Morris et al. 2025)."""
SPARE = 10
"""A network that can store the codes of its pictures so many times is expected to memorize them, if trained for long.
"""
GAP = 0.2
"""The gap between held-out and training nats/token, as a fraction of the former, from which a prior has memorized."""
REMEDIES = "use more pictures, `tokenize --views 8`, --dropout or --patience; see: taming guide troubleshooting"


def expected(parameters: int, pictures: int, codes: int, codebook_size: int) -> str:
    """A warning if `parameters` can store SPARE times the `codes` of each view of the training `pictures`, else ''.

    `codes` is their number for one picture, over all its views; each holds log2 K bits at most.
    """
    information = pictures * codes * math.log2(max(2, codebook_size))
    capacity = parameters * BITS_PER_PARAMETER
    if capacity < SPARE * information:
        return ""
    return (
        f"a network of {parameters:,} parameters can store the codes of {pictures:,} training pictures "
        f"{capacity / information:.0f} times, so a long training memorizes them: {REMEDIES}"
    )


def found(validation: Mapping[str, float]) -> str:
    """A note if training pictures have become much more likely than held-out ones, else ''."""
    held, training = (validation.get(name) for name in ("val_nats_per_token", "train_nats_per_token"))
    if held is None or training is None or held - training < GAP * held:
        return ""
    figures = f"{training:.2f} nats/token, {held:.2f} for held-out ones"
    return f"the prior has memorized training pictures ({figures}): {REMEDIES}"
