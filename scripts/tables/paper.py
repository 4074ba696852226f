"""For `scripts/paper`: a table of the paper, or its figure 7, from pictures of one's own."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from commands import Commands
from request import FREE_FEATURES, Parser, Request
from table import Table

from taming_cli.config.size import Size
from taming_cli.errors import TamingError, UsageError

TABLES = ("table1", "table2", "table4", "table5", "figure7")
"""The modules that have `make(request, commands)`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the table that is asked for. -> The exit code: 0, or that of the error, which is printed as one line."""
    try:
        request = read(arguments)
        commands = Commands(request.out)
        table: Table = importlib.import_module(request.table).make(request, commands)
        table.write(request.out, request.table)
    except TamingError as error:
        print(f"paper: {error}", file=sys.stderr)
        return error.exit_code
    print(table.markdown(), end="")
    print(f"== written: {request.out / request.table}.md and .json", file=sys.stderr)
    return 0


def read(arguments: Sequence[str] | None) -> Request:
    """The request of a command line. UsageError for what is not one."""
    parser = Parser(prog="paper", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("table", metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("images", type=Path, metavar="IMAGES", help="a folder of pictures")
    parser.add_argument("--minutes", type=float, default=8, help="time of each training")
    parser.add_argument("--size", default="128x128", metavar="WxH", help="size of all pictures")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: runs/paper/TABLE")
    parser.add_argument("--segmentation", type=Path, metavar="FOLDER", help="table2: label maps of the pictures")
    parser.add_argument("--weights", type=Path, metavar="FILE", help=f"of Inception; else features of {FREE_FEATURES}")
    parser.add_argument("--codec", type=Path, metavar="FILE", help="table1: a codec that is trained already")
    parser.add_argument("--samples", type=int, default=100, metavar="N", help="table4, figure7: samples for a distance")
    parser.add_argument("--n-layer", type=int, default=4, metavar="N", help="blocks of the transformers")
    parser.add_argument("--n-embd", type=int, default=256, metavar="N", help="width of the transformers")
    parser.add_argument("--classifier", default=FREE_FEATURES, metavar="NAME", help="table4")
    parser.add_argument("--class-map", type=Path, metavar="FILE", help="table4: as of `taming sample`")
    asked = parser.parse_args(arguments)
    if asked.table not in TABLES:
        raise UsageError(f"{asked.table!r} is none of {', '.join(TABLES)}")
    for name in ("weights", "codec", "class_map"):
        path = getattr(asked, name)
        if path is not None and not path.exists():
            raise UsageError(f"{path} does not exist")
    if asked.minutes <= 0 or asked.samples < 2:
        raise UsageError(f"minutes is {asked.minutes:g} and samples {asked.samples}; use more than 0, and at least 2")
    values = {**vars(asked), "size": Size.parse(asked.size), "out": asked.out or Path("runs/paper") / asked.table}
    return Request(**values)


if __name__ == "__main__":
    raise SystemExit(main())
