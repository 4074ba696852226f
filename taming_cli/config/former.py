"""Names and values of earlier versions, so that their run folders, trainer files and config files can still be read."""

from collections.abc import Mapping
from typing import Any

SETTINGS = {"critic_learning_rate": "disc_learning_rate", "critic_start": "disc_train_start"}
GROUPS = {"critic": "discriminator"}
TRAINER = {"critic": "discriminator", "critic_optimizer": "discriminator_optimizer"}
METRICS = {"critic": "discriminator"}
PRIOR = {"neighbour_features": 0}
"""Values of settings of a prior that files older than the setting do not record."""


def renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """`values` with each key in `names` replaced by its present name, in the same order."""
    return {names.get(key, key): value for key, value in values.items()}


def renamed_settings(groups: Mapping[str, Any]) -> dict[str, Any]:
    """Rename groups and settings in the contents of config.json or a TOML file, grouped or flat."""
    inner = {
        key: renamed(value, SETTINGS) if isinstance(value, Mapping) else value
        for key, value in renamed(groups, GROUPS).items()
    }
    return renamed(inner, SETTINGS)
