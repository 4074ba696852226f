"""The settings of one command, resolved from all their origins: flags, environment, config file, preset, default."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from taming_cli.cli.console import LOG
from taming_cli.config.fields import to_dict
from taming_cli.config.presets import CONFIGS, MAPS, PLAIN_CODEC, of_scale, preset
from taming_cli.config.resolve import Layer, Resolved, from_environment, from_file, from_flags, resolve
from taming_cli.errors import UsageError

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The command line's values for the config classes of a command. `flags` maps field names to text, or None if a
    flag was not given; `preset`, `scale` and `config_file` are those of `--preset`, `--scale` and `--config`."""

    command: str
    classes: Sequence[type[Any]] = ()
    flags: Mapping[str, Any]
    preset: str | None = None
    scale: int | None = None
    config_file: Path | None = None

    def resolve(
        self,
        *classes: type[Any],
        recorded: Layer | None = None,
        fixed: Layer | None = None,
    ) -> Resolved:
        """One instance of each of `classes`, in that order.

        `recorded` is the config of a resumed run, which only flags override. `fixed` is the architecture recorded in a
        model file; it ranks below the flags, which must agree with it. UsageError for an invalid value of any origin.
        """
        given = from_flags(classes, self.flags)
        if recorded is not None:
            if self.preset or self.scale or self.config_file:
                raise UsageError("a resumed run keeps its settings; leave out --preset, --scale and --config")
            return _logged(resolve(classes, [given, recorded]))
        layers = [given]
        if fixed is not None:
            layers.append(fixed)
        layers.append(from_environment(classes, os.environ))
        if self.config_file is not None:
            layers.append(_for(classes, from_file(self.config_file, self.command)))
        if self.command in CONFIGS:
            name = self._preset()
            values = preset(name).of(self.command)
            layers += [_of_kind(layers), _of_network(layers, values), Layer(f"preset {name}", values)]
        return _logged(resolve(classes, layers))

    def _preset(self) -> str:
        """The name of the preset that the flags, the environment or the device choose."""
        if self.preset and self.scale is not None:
            raise UsageError("--preset and --scale both choose the size of a training; leave one of them out")
        if self.scale is not None:
            return of_scale(self.scale)
        return self.preset or os.environ.get("TAMING_PRESET") or _default_preset()

    def config(self, config: type[Config]) -> Config:
        """The resolved instance of one config class, for a command whose settings depend on no file."""
        resolved = self._configs[config]
        assert isinstance(resolved, config)
        return resolved

    @cached_property
    def _configs(self) -> Mapping[type[Any], Any]:
        return {type(config): config for config in self.resolve(*self.classes).configs}


def log_settings(settings: Mapping[str, tuple[Any, str]]) -> None:
    """Log (value, origin) of each setting, which `-v` prints: a line per origin, defaults last."""
    by_origin: defaultdict[str, list[str]] = defaultdict(list)
    for name, (value, origin) in settings.items():
        if value not in (None, (), []) and (value is not False or origin != "default"):
            shown = ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
            by_origin[origin].append(f"{name} {shown}")
    for origin, values in sorted(by_origin.items(), key=lambda item: item[0] == "default"):
        LOG.info("set by %s: %s", origin, ", ".join(values))


def _logged(resolved: Resolved) -> Resolved:
    log_settings(
        {
            name: (value, resolved.origins[name])
            for config in resolved.configs
            for name, value in to_dict(config).items()
        }
    )
    return resolved


def _for(classes: Sequence[type[Any]], layer: Layer) -> Layer:
    """A file's values for these classes; the option `--config` has handled the others."""
    known = {field.name for config in classes for field in fields(config)}
    return replace(layer, values={name: value for name, value in layer.values.items() if name in known})


def _of_kind(layers: Sequence[Layer]) -> Layer:
    """The defaults that differ for a codec of condition maps."""
    kind = next((layer.values["kind"] for layer in layers if "kind" in layer.values), "image")
    return Layer(f"kind {kind}", {} if kind == "image" else MAPS)


def _of_network(layers: Sequence[Layer], preset: Mapping[str, Any]) -> Layer:
    """The defaults in place of a preset's patches and shortcut, where a network without them is asked for."""
    network = next((layer.values["network"] for layer in layers if "network" in layer.values), "vqgan")
    return Layer(f"network {network}", PLAIN_CODEC if "patch_size" in preset and network != "vqgan" else {})


def _default_preset() -> str:
    from taming_cli.runtime.device import pick_device

    return "tiny" if pick_device(os.environ.get("TAMING_DEVICE", "auto")).type == "cpu" else "small"
