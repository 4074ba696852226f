"""For `scripts/builtin`: round weights to half precision, and write one file with all networks and their origin."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from taming_cli.codec.locate import codecs_in, load_codec
from taming_cli.codec.vqgan import codec_file, codec_from
from taming_cli.report.record import read_run
from taming_cli.runtime.checkpoint import load_model, save_model
from taming_cli.scenes.canvas import LABELS, PALETTE

SUGGESTED = {
    "sampling": {"temperature": "0.6:1"},
    "sampling_with_maps": {"temperature": "0.7:1", "guidance": 1.5, "min_p": 0.02},
}
"""The model's default sampling settings. The first, sparse cells decide what is where, and an unlikely code among them
becomes a tree in the sky, so the temperature begins low. With a map, there is some guidance, and no rare codes."""
SCORES = ("psnr", "perceptual", "accuracy", "codes_used", "val_nats_per_token")
MOST = 15_000_000
"""Largest size of the file in bytes."""


def halve(*runs: str) -> None:
    """Write each run's last codec as `half.safetensors`, with weights rounded to half precision."""
    for run in map(Path, runs):
        model = load_model(run / "checkpoints" / "last.safetensors", "taming-codec")
        about = _public(model.about)
        if about["content"] == "segmentation":  # so that maps may be painted in colours, too
            labels = model.config["codec"]["in_channels"]
            about["colours"] = {"rgb": PALETTE[:labels].tolist(), "names": list(LABELS[:labels])}
        rounded = replace(model, tensors={name: tensor.half().float() for name, tensor in model.tensors.items()})
        save_model(run / "half.safetensors", codec_file(codec_from(rounded, str(run)), about))


def split(former: str, out: str) -> None:
    """Write the codecs of a prior's model file as `codec/half.safetensors` and `map-codec/half.safetensors`."""
    whole = load_model(Path(former), "taming-prior")
    own, *conditions = codecs_in(whole)
    for name in ("codec", "map-codec"):
        (Path(out) / name).mkdir(exist_ok=True)
    about = {"content": "image", "size": "384x256"}
    save_model(Path(out) / "codec/half.safetensors", codec_file(codec_from(own, former), about))
    (maps,) = conditions
    save_model(Path(out) / "map-codec/half.safetensors", maps)


def gather(out: str, target: str, data: str, former: str = "") -> None:
    """Write the prior's file, which contains the codecs too, in half precision, with seeds, minutes and scores. The
    codec of maps keeps its encoder alone. Codecs are those of the model file `former`, if any."""
    made: dict[str, Any] = {"script": "scripts/builtin", "data": data}
    if former:
        before = load_model(Path(former), "taming-prior")
        codec = {name: tensor for name, tensor in before.tensors.items() if name.startswith("codec.")}
        made["former"] = before.about["made"]
    else:
        decoder = load_model(Path(out) / "decoder/checkpoints/last.safetensors", "taming-codec")
        codec = {f"codec.{name}": tensor for name, tensor in decoder.tensors.items()}
    for run in ("prior", "tuned") if former else ("map-codec", "codec", "decoder", "prior", "tuned"):
        record = read_run(Path(out) / run)
        made[run] = {
            "seed": record.config["train"]["seed"],
            "steps": record.newest["step"],
            "minutes": round(record.newest["seconds"] / 60, 1),
            **{name: round(value, 4) for name, value in record.validation[-1].items() if name in SCORES},
        }
    model = load_model(Path(out) / "tuned/checkpoints/last.safetensors", "taming-prior")
    (kind, facts), *_ = model.about["conditions"].items()
    conditions = {kind: {**facts, "encoder_only": True}}
    about = {**_public(model.about), **SUGGESTED, "made": made, "conditions": conditions}
    dropped = tuple(f"condition.{kind}.{part}" for part in ("decoder.", "post_quant_conv."))
    tensors = {name: tensor for name, tensor in model.tensors.items() if not name.startswith(dropped)}
    assert {name for name in tensors if name.startswith("codec.")} == codec.keys()
    halves = {name: tensor.half() for name, tensor in {**tensors, **codec}.items()}
    save_model(Path(target), replace(model, about=about, tensors=halves))
    load_codec(Path(target))
    size = Path(target).stat().st_size
    print(f"{target}: {size:,} bytes")
    if size > MOST:
        raise SystemExit(f"{target} is larger than {MOST:,} bytes")


def note(target: str, followed: str) -> None:
    """Record how well samples follow their maps."""
    model = load_model(Path(target), "taming-prior")
    made = {**model.about["made"], "follows": followed}
    save_model(Path(target), replace(model, about={**model.about, "made": made}))


def _public(about: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata without paths of this machine."""
    return {name: value for name, value in about.items() if name not in ("images", "tokens")}


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    verbs: dict[str, Callable[..., None]] = {"halve": halve, "split": split, "gather": gather, "note": note}
    verbs[verb](*arguments)
