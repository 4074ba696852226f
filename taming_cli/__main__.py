"""`python -m taming_cli`, and the `taming` executable."""

import os
import sys

from taming_cli.cli.app import main
from taming_cli.data.pillow import without_pillows_warnings
from taming_cli.runtime.allocator import keep_freed_memory
from taming_cli.runtime.processes import several


def run() -> int:
    """Set the allocator and the warning filters of this process, and run `main`.

    One of several processes exits without finalising the interpreter: there torch's communication threads sometimes
    abort the process (SIGABRT) after all work is done and saved.
    """
    keep_freed_memory()
    without_pillows_warnings()
    code = main()
    if several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    raise SystemExit(run())
