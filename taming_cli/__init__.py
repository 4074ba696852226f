"""Train a discrete image codec and a transformer prior on its codes, and sample new images.

A notebook needs `from taming_cli import Pipeline, VQGAN`: see `sampling.pipeline` and `codec.vqgan`.
"""

from typing import TYPE_CHECKING, Any

from taming_cli.version import __version__ as __version__

if TYPE_CHECKING:
    from taming_cli.codec.vqgan import VQGAN as VQGAN
    from taming_cli.sampling.pipeline import Pipeline as Pipeline


def __getattr__(name: str) -> Any:
    """Import the public names on first use: they need torch, which `taming --help` must not import."""
    if name == "Pipeline":
        from taming_cli.sampling.pipeline import Pipeline

        return Pipeline
    if name == "VQGAN":
        from taming_cli.codec.vqgan import VQGAN

        return VQGAN
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
