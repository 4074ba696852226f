"""`python -m taming_cli`, and the `taming` executable."""

import os
import sys

from taming_cli.cli.app import main
from taming_cli.data.pillow import without_pillows_warnings
from taming_cli.runtime.allocator import keep_freed_memory
from taming_cli.runtime.processes import several


def run() -> int:
    """`main`, in a process whose allocator and warnings are ours to set; and for one of several processes its end at
    once: what torch's threads for talking to the others do while an interpreter is taken down ends now and then in
    SIGABRT, after all is done and written."""
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
