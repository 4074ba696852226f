"""Names from earlier versions. Run folders, trainer files and config files that hold them still open."""

from collections.abc import Mapping
from typing import Any

SETTINGS = {"critic_learning_rate": "disc_learning_rate", "critic_start": "disc_train_start"}
GROUPS = {"critic": "discriminator"}
TRAINER = {"critic": "discriminator", "critic_optimizer": "discriminator_optimizer"}
METRICS = {"critic": "discriminator"}


def renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """`values` with each key that `names` has under its present name; the order stays."""
    return {names.get(key, key): value for key, value in values.items()}


def renamed_settings(groups: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by group, or flat, as config.json and TOML files hold them, with groups and settings renamed."""
    inner = {
        key: renamed(value, SETTINGS) if isinstance(value, Mapping) else value
        for key, value in renamed(groups, GROUPS).items()
    }
    return renamed(inner, SETTINGS)
