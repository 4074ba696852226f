"""Settings of Pillow for the processes of the executable. A library leaves the warnings of its host program alone."""

import warnings


def without_pillows_warnings() -> None:
    """Silence Pillow's warnings about damaged metadata and large pictures, for the rest of this process.

    `warnings.catch_warnings` is not safe while other threads decode.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
