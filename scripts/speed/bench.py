"""For `scripts/bench`: every stage timed in turns, with memory, ratios and floors, as a table and as JSON."""

import argparse
import json
import platform
import sys
from pathlib import Path

import torch
from peer import Peer
from rich.console import Console
from rich.table import Table
from stages import STAGES, Bench
from turns import OURS, PEER, PLAIN, Stage

from taming_cli.runtime.cost import flop_rate, read_rate
from taming_cli.runtime.device import pick_device, pick_precision, precision_name


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--peer", type=Path, metavar="FOLDER", help="a checkout of the authors' code")
    parser.add_argument("--stages", default=",".join(STAGES), help="of: %(default)s")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    wanted = asked.stages.split(",")
    if unknown := set(wanted) - set(STAGES):
        raise SystemExit(f"bench: unknown stage {', '.join(sorted(unknown))}; use {', '.join(STAGES)}")
    device = pick_device(asked.device)
    dtype = pick_precision("auto", device)
    peer = None if asked.peer is None else Peer(asked.peer.resolve())
    bench = Bench(device, dtype, peer, flop_rate(device, dtype), read_rate(device))
    torch.manual_seed(0)
    console = Console(stderr=True)
    stages = []
    for name in wanted:
        for stage in STAGES[name](bench):
            console.print(f"{stage.name} ...", highlight=False)
            stage.measure(asked.repeats, device)
            stages.append(stage)
            print(json.dumps(stage.to_dict()), file=sys.stderr)
    about = {
        "machine": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": precision_name(dtype),
        "gflops": bench.flops / 1e9,
        "gigabytes_read_per_second": bench.reads / 1e9,
        "repeats": asked.repeats,
    }
    Console(width=150).print(_table(stages))
    print(json.dumps(about), file=sys.stderr)
    if asked.json is not None:
        asked.json.write_text(json.dumps({**about, "stages": [stage.to_dict() for stage in stages]}, indent=2) + "\n")


def _table(stages: list[Stage]) -> Table:
    table = Table("stage", "per", *(f"{way}, s" for way in (PLAIN, PEER, OURS)), f"x {PLAIN}", f"x {PEER}", "of floor")
    for column in table.columns[2:]:
        column.justify = "right"
    table.add_column("memory, MiB", justify="right")
    for stage in stages:
        said = stage.to_dict()
        times = [f"{said['seconds'][way]:.4g}" if way in said["seconds"] else "" for way in (PLAIN, PEER, OURS)]
        ratios = [
            f"{said['times_faster_than'][way]:.2f}" if way in said["times_faster_than"] else "" for way in (PLAIN, PEER)
        ]
        share = "" if said["share_of_floor"] is None else f"{said['share_of_floor']:.0%}"
        memory = " / ".join(f"{stage.memory[way] / 2**20:.0f}" for way in (PLAIN, PEER, OURS) if way in stage.memory)
        table.add_row(stage.name, stage.unit, *times, *ratios, share, memory)
    return table


if __name__ == "__main__":
    main()
