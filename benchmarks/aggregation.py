"""Weighted mean over spooled updates: time against NVFlare's in-memory helper, and peak memory for 8 and 64 updates.

    python -m benchmarks.aggregation --out aggregation.json [--repeats 5] [--dir FOLDER]

An update has the layout of a ViT-S/16 classifier: 22 050 664 float32 in 152 tensors, 88 MB. The 64 updates are hard
links to 8 files, so that --dir needs room for those 8 only.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from nvflare.app_common.aggregators.weighted_aggregation_helper import WeightedAggregationHelper
from torch import Tensor

from benchmarks.common import Measurement, clear_peak, machine, memory, report
from consilia.aggregation.mean import weighted_mean
from consilia.aggregation.store import SpooledUpdate
from consilia.core.determinism import generator, single_threaded
from consilia.core.tensor_files import write_tensors

FEW, MANY = 8, 64
TIME_BOUND = 1.0
SAME_MEMORY = 1.02
"""Peaks that differ by less are the same: the allocator's arenas and page rounding vary from process to process."""


def layout(width: int = 384, depth: int = 12, classes: int = 1000) -> dict[str, tuple[int, ...]]:
    """Shapes by name of a vision transformer for 224-pixel images in patches of 16; ViT-S/16 by default."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 197, width),
        "patch_embed.weight": (width, 3, 16, 16),
        "patch_embed.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (classes, width),
        "head.bias": (classes,),
    }
    linear = {"qkv": (3 * width, width), "proj": (width, width), "fc1": (4 * width, width), "fc2": (width, 4 * width)}
    for block in range(depth):
        for name, (rows, columns) in linear.items():
            shapes[f"blocks.{block}.{name}.weight"] = (rows, columns)
            shapes[f"blocks.{block}.{name}.bias"] = (rows,)
        for name in ("norm1", "norm2"):
            shapes[f"blocks.{block}.{name}.weight"] = (width,)
            shapes[f"blocks.{block}.{name}.bias"] = (width,)
    return shapes


def random_update(shapes: dict[str, tuple[int, ...]], site: str) -> dict[str, Tensor]:
    """Normal values, the same for the same site."""
    source = generator(0, "aggregation-benchmark", site)
    return {name: torch.randn(shape, generator=source) for name, shape in shapes.items()}


def write_updates(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write ``MANY`` update files, ``FEW`` of them real and the others hard links.

    Raises:
        SystemExit: the folder has no room for them.
    """
    elements = sum(torch.Size(shape).numel() for shape in shapes.values())
    needed, free = int(FEW * 4 * elements * 1.01), shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(f"{folder} has {free:,} bytes free, {needed:,} are needed: give another folder with --dir")
    for number in range(MANY):
        path = folder / f"{number:05d}.safetensors"
        if number < FEW:
            write_tensors(path, random_update(shapes, f"site-{number}"))
        else:
            path.hardlink_to(folder / f"{number % FEW:05d}.safetensors")


def spool(folder: Path, count: int) -> dict[str, SpooledUpdate]:
    """The first ``count`` updates on disk, by site name."""
    return {f"site-{number}": SpooledUpdate(folder / f"{number:05d}.safetensors") for number in range(count)}


def weights_of(sites: int) -> dict[str, float]:
    """Unequal weights, as numbers of cases are."""
    return {f"site-{number}": 100.0 + 17 * number for number in range(sites)}


def time_both(folder: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds of our mean over files and of NVFlare's helper over NumPy arrays in memory, in turn."""
    updates, weights = spool(folder, FEW), weights_of(FEW)
    arrays = {site: {name: tensor.numpy() for name, tensor in update.items()} for site, update in updates.items()}

    def theirs() -> None:
        helper = WeightedAggregationHelper()
        for site, update in arrays.items():
            helper.add(update, weights[site], site, 0)
        helper.get_result()

    def ours() -> None:
        # As the server runs it.
        with single_threaded():
            weighted_mean(updates, weights)

    seconds: dict[str, list[float]] = {"consilia": [], "nvflare": []}
    # One pair more than is counted: the first one meets cold caches.
    for repeat in range(repeats + 1):
        for name, action in (("consilia", ours), ("nvflare", theirs)):
            taken = timed(action)
            if repeat:
                seconds[name].append(taken)
    return seconds


def timed(action: Callable[[], None]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def peak_memory(folder: Path, count: int) -> int:
    """Bytes that a process of its own needs for the mean over ``count`` updates, apart from what its imports take."""
    command = [sys.executable, "-m", "benchmarks.aggregation", "--child", str(count), "--dir", str(folder)]
    place = Path(__file__).parents[1]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=place)
    return int(json.loads(done.stdout)["bytes"])


def child(folder: Path, count: int) -> None:
    """The child process of :func:`peak_memory`."""
    updates, weights = spool(folder, count), weights_of(count)
    with single_threaded():
        before = memory()
        clear_peak()
        weighted_mean(updates, weights)
        print(json.dumps({"bytes": memory(peak=True) - before}))


def measure(folder: Path, repeats: int, shapes: dict[str, tuple[int, ...]]) -> tuple[list[Measurement], dict[str, Any]]:
    """The measurements, and the single runs behind them."""
    write_updates(folder, shapes)
    seconds = time_both(folder, repeats)
    ratios = [ours / theirs for ours, theirs in zip(seconds["consilia"], seconds["nvflare"], strict=True)]
    peaks = {count: [peak_memory(folder, count) for _ in range(min(repeats, 3))] for count in (FEW, MANY)}
    few, many = median(peaks[FEW]), median(peaks[MANY])
    elements = sum(torch.Size(shape).numel() for shape in shapes.values())
    found = [
        Measurement("elements per update", elements, ""),
        Measurement(f"NVFlare's helper, {FEW} updates in memory", median(seconds["nvflare"]), "s"),
        Measurement(f"Consilia, {FEW} updates on disk", median(seconds["consilia"]), "s"),
        Measurement("Consilia / NVFlare", median(ratios), "x", TIME_BOUND),
        Measurement("size of one update", 4 * elements / 1e6, "MB"),
        Measurement(f"peak memory, {FEW} updates", few / 1e6, "MB"),
        Measurement(f"peak memory, {MANY} updates", many / 1e6, "MB"),
        Measurement(f"peak memory, {MANY} / {FEW}", many / few, "x", SAME_MEMORY),
    ]
    return found, {"seconds": seconds, "peak_bytes": {str(count): values for count, values in peaks.items()}}


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--depth", type=int, default=12, help="blocks of the transformer; fewer for a quick try")
    parser.add_argument("--dir", type=Path, help="where the updates lie (0.7 GB); default: a temporary folder")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        child(options.dir, options.child)
        return
    found = machine()
    if options.dir is not None:
        options.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="consilia-benchmark-", dir=options.dir) as scratch:
        measurements, details = measure(Path(scratch), options.repeats, layout(depth=options.depth))
    report("Weighted mean over spooled updates", measurements, details, found, options.out)


if __name__ == "__main__":
    main()
