"""`tokens`: check and join token files."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from taming_cli.cli.command import Group, command
from taming_cli.cli.console import Output
from taming_cli.cli.formatting import printable, value_text


@command("verify")
def verify(
    output: Output,
    file: Annotated[Path, typer.Argument(metavar="TOKENS", help="Token file.")],
) -> int:
    """Read all of a token file and check its checksums, ranges and counts."""
    from taming_cli.data.tokens.file import verify as verify_file

    verified = verify_file(file)
    summary = asdict(verified) | {"path": str(verified.path), "header": verified.header.to_values()}
    text = ", ".join(f"{name.replace('_', ' ')} {value_text(value)}" for name, value in summary.items() if value)
    output.result(f"{printable(str(file))} is valid: {text}".split("\n"), summary, short=str(file))
    return 0


@command("merge")
def merge(
    output: Output,
    files: Annotated[list[Path], typer.Argument(metavar="TOKENS...", help="Token files of one codec and size.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The token file to write.")],
) -> int:
    """Join token files into one."""
    from taming_cli.data.tokens.merge import merge as merge_files

    merged = merge_files(files, out)
    output.result(
        f"{merged.path}: {merged.count} pictures",
        {"path": str(merged.path), "count": merged.count},
        short=str(merged.path),
    )
    return 0


TOKENS = Group("tokens", "Check and join token files.", (verify, merge))
