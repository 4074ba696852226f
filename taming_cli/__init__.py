"""Train a discrete image codec, a transformer prior on its codes, and sample new images.

`from taming_cli import Pipeline, VQGAN` are what a notebook needs: see `sampling.pipeline` and `codec.vqgan`.
"""

from typing import TYPE_CHECKING, Any

from taming_cli.version import __version__ as __version__

if TYPE_CHECKING:
    from taming_cli.codec.vqgan import VQGAN as VQGAN
    from taming_cli.sampling.pipeline import Pipeline as Pipeline


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for: they need torch, which the command line does without."""
    if name == "Pipeline":
        from taming_cli.sampling.pipeline import Pipeline

        return Pipeline
    if name == "VQGAN":
        from taming_cli.codec.vqgan import VQGAN

        return VQGAN
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
