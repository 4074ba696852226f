"""For `scripts/bench`: every stage timed in turns, with memory, ratios and floors, as a table and as JSON."""

import argparse
import json
import platform
import sys
from functools import partial
from pathlib import Path

import torch
from peer import Peer
from rich.console import Console
from rich.table import Table
from stages import STAGES, Bench
from turns import OURS, PEER, PLAIN, Timed, timed

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
    peer = None if asked.peer is None else asked.peer.resolve()
    if peer is not None:
        Peer(peer)  # an error now rather than in the middle
    bench = Bench(device, dtype, peer)
    found = []
    for name in wanted:
        for each in timed(partial(STAGES[name], bench), asked.repeats, device):
            found.append(each)
            print(json.dumps(each.to_dict()), file=sys.stderr)
    about = {
        "machine": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": precision_name(dtype),
        "gflops": flop_rate(device, dtype) / 1e9,
        "gigabytes_read_per_second": read_rate(device) / 1e9,
        "repeats": asked.repeats,
    }
    Console(width=150).print(_table(found))
    print(json.dumps(about), file=sys.stderr)
    if asked.json is not None:
        asked.json.write_text(json.dumps({**about, "stages": [each.to_dict() for each in found]}, indent=2) + "\n")


def _table(found: list[Timed]) -> Table:
    table = Table("stage", "per", *(f"{way}, s" for way in (PLAIN, PEER, OURS)), f"x {PLAIN}", f"x {PEER}", "of floor")
    for column in table.columns[2:]:
        column.justify = "right"
    table.add_column("memory, MiB", justify="right")
    for each in found:
        said = each.to_dict()
        times = [f"{said['seconds'][way]:.4g}" if way in said["seconds"] else "" for way in (PLAIN, PEER, OURS)]
        ratios = [
            f"{said['times_faster_than'][way]:.2f}" if way in said["times_faster_than"] else "" for way in (PLAIN, PEER)
        ]
        share = "" if said["share_of_floor"] is None else f"{said['share_of_floor']:.0%}"
        memory = " / ".join(f"{each.memory[way] / 2**20:.0f}" for way in (PLAIN, PEER, OURS) if way in each.memory)
        table.add_row(each.stage.name, each.stage.unit, *times, *ratios, share, memory)
    return table


if __name__ == "__main__":
    main()
