"""`annotate`: compute the condition maps of pictures."""

from dataclasses import dataclass
from typing import Annotated, Any

from taming_cli.cli import options as o
from taming_cli.cli.command import Group, Panel, command
from taming_cli.cli.console import Output
from taming_cli.cli.inputs import images_and_out
from taming_cli.cli.processes import own_part, part_text, part_values, skipped_code
from taming_cli.config.annotate import AnnotateConfig, DepthConfig, EdgesConfig, PoseConfig, SegmentationConfig


@dataclass
class Job:
    """The options of every annotator."""

    output: Output
    images: o.ImagesAndOut
    out: o.Out = None
    shard: o.ShardText = None
    workers: o.Workers = 2
    dry_run: o.DryRun = False


@command("segmentation", first=("out",), reads_pictures=True)
def segmentation(
    job: Job,
    config: Annotated[SegmentationConfig, Panel("Network")],
    pretrained: o.Pretrained,
    device: o.Device = "auto",
) -> int:
    """Label maps by a torchvision network (by default DeepLabV3, 21 labels), with labels.txt beside them."""
    return _annotate(job, config, device=device, **vars(pretrained))


@command("depth", first=("out",), reads_pictures=True)
def depth(
    job: Job, config: Annotated[DepthConfig, Panel("Network")], pretrained: o.Pretrained, device: o.Device = "auto"
) -> int:
    """16-bit depth maps by a transformers model (pip install 'taming\\[annotate]'), each scaled to its own range."""
    return _annotate(job, config, device=device, **vars(pretrained))


@command("pose", first=("out",), reads_pictures=True)
def pose(
    job: Job, config: Annotated[PoseConfig, Panel("Detection")], pretrained: o.Pretrained, device: o.Device = "auto"
) -> int:
    """Skeletons of the people in the pictures, on black, by torchvision's keypoint R-CNN."""
    return _annotate(job, config, device=device, **vars(pretrained))


@command("edges", first=("out",), reads_pictures=True, config_file=True)
def edges(job: Job) -> int:
    """White Canny edges on black, as `tokenize --cond edges` computes them. Needs no network."""
    return _annotate(job, EdgesConfig())


ANNOTATE = Group(
    "annotate",
    "Compute condition maps of pictures, as PNGs of the same size and relative path. An interrupted run continues "
    "when it is started again.",
    (segmentation, depth, pose, edges),
)


def _annotate(job: Job, config: AnnotateConfig, **network: Any) -> int:
    output = job.output
    images, out = images_and_out(job.images, job.out, f"annotate {config.kind}")
    part = own_part(output, job.shard)
    from taming_cli.annotate import LABELS, annotate

    with output.bar("annotating", unit="pictures") as bar:
        annotated = annotate(
            images,
            out,
            config,
            shard=part,
            workers=job.workers,
            dry_run=job.dry_run,
            on_item=lambda done, total: bar.update(done, total=total),
            on_bytes=bar.fetching,
            **network,
        )
    if job.dry_run:
        output.result(
            f"{annotated.folder}: {annotated.made} maps would be made; {annotated.present} files exist already",
            {"path": str(out), "kind": annotated.kind, "would_make": annotated.made, "there": annotated.present},
            short=str(annotated.made),
        )
        return 0
    output.skipped(dict(annotated.skipped))
    present = f" ({annotated.present} existed already)" if annotated.present else ""
    labels = f"; {len(annotated.labels)} labels, named in {out / LABELS}" if annotated.labels else ""
    output.result(
        f"{annotated.folder}: {annotated.count} maps{present}{labels}{part_text(part, '; ')}",
        {
            "path": str(annotated.folder),
            "kind": annotated.kind,
            "count": annotated.count,
            "made": annotated.made,
            **part_values(part),
            **({"labels": list(annotated.labels)} if annotated.labels else {}),
            "skipped": dict(annotated.skipped),
        },
        short=str(annotated.folder),
    )
    return skipped_code(annotated.skipped)
