"""What a prior's run records of the tokens that it is trained on."""

from collections.abc import Sequence

from taming_cli.config.prior import PriorTrainConfig
from taming_cli.prior.batches import TokenSet
from taming_cli.runtime.inputs import Data


def data_of(tokens: TokenSet, train: PriorTrainConfig, inputs: Sequence[str]) -> Data:
    """The record of a training's tokens. Names count: whether a sample is held out follows from its name."""
    place = " ".join(inputs)
    return Data(
        what="tokens",
        listings={"inputs": tokens.listing()},
        places={"inputs": place, "codec or vocabulary": place},
        about={"data": {"sha256": tokens.sha256()}},
        by={"cond": list(train.cond)},
        named=True,
        hashes={"codec or vocabulary": tokens.made_by()},
        init=train.init,
    )
