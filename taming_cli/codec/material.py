"""What the files of a codec's training hold: by its settings, and by the codec that it starts from."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from taming_cli.codec.locate import content_in
from taming_cli.config.codec import CodecTrainConfig
from taming_cli.data.conditions.counts import Counted, count_labels
from taming_cli.data.conditions.depth import WHOLE
from taming_cli.data.conditions.labels import read_colours
from taming_cli.data.contents import Content, Depth, Segmentation, content
from taming_cli.data.sources import Item
from taming_cli.errors import UsageError
from taming_cli.runtime.checkpoint import read_header

_log = logging.getLogger(__name__)


class Material(NamedTuple):
    """The content of the files; of segmentation maps, their `labels`."""

    content: Content
    labels: Counted | None


def material(items: Sequence[Item], train: CodecTrainConfig, channels: int, last: Path | None = None) -> Material:
    """What a training on `items` reads them as; `channels` are those of the codec that `train.init` names.

    What the settings leave open of how maps are read is taken from the codec that the training starts from: of a run
    that goes on, from its `last` model, so that the file of `train.init` may be gone. The labels of segmentation maps
    are counted (see `count_labels`). Raises UsageError for a codec of another kind, and for maps that do not fit the
    settings.
    """
    holds = content(
        train.kind,
        labels=train.labels,
        unlabelled=train.unlabelled,
        colours=read_colours(Path(train.colours)) if train.colours else None,
        label_values=train.label_values,
        missing=train.missing,
        depth_range=train.depth_range,
    )
    start = last if last is not None and last.exists() else Path(train.init or "")
    if train.init is not None and (last is None or start.exists()):
        before = content_in(read_header(start))
        if before.kind != train.kind:
            raise UsageError(
                f"{train.init} is a codec of kind {before.kind!r}, not {train.kind!r}; say --kind {before.kind}"
            )
        holds = _as_before(holds, before)
    if not isinstance(holds, Segmentation):
        return Material(holds, None)
    known = train.labels or (channels if train.init else 0)
    labels = count_labels(items, labels=known, unlabelled=holds.unlabelled, colours=holds.colours, values=holds.values)
    return Material(replace(holds, labels=labels.labels), labels)


def tell_labels(labels: Counted) -> None:
    """Log which labels occur, and what is odd about them."""
    for line in (str(labels), *(f"warning: {warning}" for warning in labels.warnings)):
        _log.warning("%s", line)


def _as_before(holds: Content, before: Content) -> Content:
    """The same, with what another codec's file says of how maps are read where nothing else is asked for."""
    if isinstance(holds, Segmentation) and isinstance(before, Segmentation):
        asked = holds.unlabelled or holds.colours is not None or holds.values
        return holds if asked else replace(before, labels=holds.labels)
    if isinstance(holds, Depth) and isinstance(before, Depth):
        percentiles = before.percentiles if holds.percentiles == WHOLE else holds.percentiles
        return Depth(holds.missing or before.missing, percentiles)
    return holds
