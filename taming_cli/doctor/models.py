"""Check that the built-in model is present and loads."""

from collections.abc import Iterator

from taming_cli.doctor.findings import Finding
from taming_cli.runtime.model_files import BUILTIN, path


def built_in() -> Iterator[Finding]:
    """The model that commands use without --ckpt and without a run."""
    from taming_cli.sampling.pipeline import Pipeline

    if not path().is_file():
        yield Finding("FAIL", BUILTIN, f"{path()} is missing: reinstall taming", {"path": str(path())})
        return
    pipeline = Pipeline.load(device="cpu")
    kinds = ", ".join(spec.kind for spec in pipeline.gpt.config.conditions)
    size = path().stat().st_size / 1e6
    yield Finding("ok", BUILTIN, f"{size:.1f} MB, conditions {kinds}; {path()}", {"path": str(path())})
