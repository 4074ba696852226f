"""The machine and the versions that a run records."""

import os
import platform
import sys
from typing import Any

import torch

import taming_cli


def environment() -> dict[str, Any]:
    """Versions, device names, cores and the command line."""
    return {
        "taming": taming_cli.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "command_line": sys.argv,
    }
