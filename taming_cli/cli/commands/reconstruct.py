"""`reconstruct` and `decode`: pictures from a codec."""

from pathlib import Path
from typing import Annotated

import typer

from taming_cli.cli import options as o
from taming_cli.cli.command import command
from taming_cli.cli.console import Output
from taming_cli.cli.dry_run import would_write
from taming_cli.cli.inputs import codec_path, images_and_out
from taming_cli.cli.processes import own_part, part_text, part_values, skipped_code
from taming_cli.config.size import Size


@command("reconstruct", first=("ckpt", "out", "size"), reads_pictures=True, config_file=True)
def reconstruct(
    output: Output,
    images: o.ImagesAndOut,
    ckpt: o.Ckpt = None,
    out: o.Out = None,
    size: o.SizeText = None,
    pictures: Annotated[
        Path | None,
        typer.Option("--pictures", metavar="PATH", help="Pictures of keypoint files that do not record picture sizes."),
    ] = None,
    batch_size: o.BatchSize = 8,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    memory: o.Memory = None,
    workers: o.Workers = 2,
    shard: o.ShardText = None,
    dry_run: o.DryRun = False,
) -> int:
    """Encode and decode pictures (or condition maps), each at its own size, and print the mean PSNR."""
    from taming_cli.codec import reconstruct as verb
    from taming_cli.codec.locate import content_in
    from taming_cli.data.conditions.pairs import each_picture, with_pictures
    from taming_cli.data.sources import list_items
    from taming_cli.runtime.checkpoint import read_header

    images, out = images_and_out(images, out, "reconstruct")
    part = own_part(output, shard)
    path = codec_path(output, ckpt)
    items = each_picture(list_items(images, extensions=content_in(read_header(path)).extensions).items)
    if pictures is not None:
        items = with_pictures(items, pictures, images[0])
    with output.bar("reconstructing", len(items[part.places]), "pictures") as bar:
        written = verb.reconstruct(
            items,
            out,
            ckpt=path,
            size=Size.parse(size) if size else None,
            batch_size=batch_size,
            device=device,
            precision=precision,
            memory=memory,
            workers=workers,
            shard=part,
            dry_run=dry_run,
            on_item=lambda done, total: bar.update(done, total=total),
        )
    if dry_run:
        return would_write(output, written, part)
    output.skipped(dict(written.skipped))
    mean = f", mean PSNR {written.psnr:.2f} dB" if written.psnr is not None else ""
    if written.accuracy is not None:
        mean = f", {100 * written.accuracy:.1f} % of the pixels keep their label"
    output.result(
        f"{written.folder}: {written.count} pictures{part_text(part)}{mean}",
        {
            "path": str(written.folder),
            "count": written.count,
            "estimated": written.estimated,
            **part_values(part),
            **{name: mean for name in ("psnr", "accuracy") if (mean := getattr(written, name)) is not None},
            "skipped": dict(written.skipped),
        },
        short=str(written.folder),
    )
    return skipped_code(written.skipped)


@command("decode", config_file=True)
def decode(
    output: Output,
    tokens: Annotated[Path, typer.Argument(metavar="TOKENS", help="Token file.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    codec: o.TokensCodec = None,
    batch_size: o.BatchSize = 8,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    memory: o.Memory = None,
    shard: o.ShardText = None,
    dry_run: o.DryRun = False,
) -> int:
    """Decode a token file to pictures."""
    from taming_cli.codec import reconstruct as verb

    part = own_part(output, shard)
    with output.bar("decoding", unit="pictures") as bar:
        written = verb.decode(
            tokens,
            out,
            codec_path=codec,
            batch_size=batch_size,
            device=device,
            precision=precision,
            memory=memory,
            shard=part,
            dry_run=dry_run,
            on_item=lambda done, total: bar.update(done, total=total),
            on_decode=bar.within,
        )
    if dry_run:
        return would_write(output, written, part)
    output.result(
        f"{written.folder}: {written.count} pictures{part_text(part)}",
        {"path": str(written.folder), "count": written.count, "estimated": written.estimated, **part_values(part)},
        short=str(written.folder),
    )
    return 0
