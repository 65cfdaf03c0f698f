"""NVFlare's stock FedAvg recipe on the same work, with a Client API script as its users write it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv

from benchmarks.workload import Workload, per_round
from consilia.core.files import write_json
from consilia.flare.simulator import stop_tree

SCRIPT = Path(__file__).with_name("stock_client.py")
SETTINGS, CLOCKS = "settings.json", "clocks"
ATTEMPTS = 3
SECONDS_PER_ROUND, PER_MILLION = 15, 1
START_SECONDS = 120


def stock_recipe(work: Workload, site_files: dict[str, Path], folder: Path) -> float:
    """Run the recipe in the simulator.

    Returns:
        Seconds per round: median over the sites of the time between two models received, from round 2 on.

    Raises:
        RuntimeError: three runs did not come to their end; names the log.
    """
    settings = {
        "sites": {name: str(path) for name, path in site_files.items()},
        "clocks": str(folder / CLOCKS),
        "class": work.model_class,
        "model": work.model_args,
        "training": work.config().training.model_dump(mode="json"),
        "seed": work.config().seed,
        # One round more, because a round is timed by the arrival of the next round's model.
        "rounds": work.rounds + 1,
    }
    write_json(folder / SETTINGS, settings)
    # On a busy machine the simulator may fail to connect to one of its own site processes; then it waits for ever.
    for _ in range(ATTEMPTS):
        _run(folder, START_SECONDS + (SECONDS_PER_ROUND + PER_MILLION * work.parameters() / 1e6) * work.rounds)
        arrivals = [[float(line) for line in path.read_text().split()] for path in (folder / CLOCKS).iterdir()]
        if len(arrivals) == work.sites and all(len(times) == work.rounds + 1 for times in arrivals):
            return median(per_round(times[1:]) for times in arrivals)
    raise RuntimeError(f"the stock recipe did not come to its end {ATTEMPTS} times; see {folder / 'stock.log'}")


def _run(folder: Path, seconds: float) -> None:
    """One attempt in a process of its own, whose whole tree can be ended; NVFlare's output goes to stock.log."""
    shutil.rmtree(folder / CLOCKS, ignore_errors=True)
    (folder / CLOCKS).mkdir()
    command = [sys.executable, "-m", "benchmarks.stock", str(folder)]
    with (folder / "stock.log").open("w") as log:
        place = Path(__file__).parents[1]
        # As Consilia's simulator: glibc's one arena per thread would keep what large messages have left behind.
        environment = {**os.environ, "MALLOC_ARENA_MAX": "2"}
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=place, env=environment)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            stop_tree(process.pid)
            process.wait()


def main() -> None:
    """The child process: execute the recipe described in the folder given as the only argument."""
    folder = Path(sys.argv[1])
    settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text())
    sites = sorted(settings["sites"])
    recipe = FedAvgRecipe(
        name="stock",
        model={"class_path": settings["class"], "args": settings["model"]},
        min_clients=len(sites),
        num_rounds=settings["rounds"],
        train_script=str(SCRIPT),
        train_args=str(folder / SETTINGS),
    )
    workspace = folder / "workspace"
    # The simulator's default list refuses the model's class.
    resources = {"format_version": 2, "class_allow_list": [*DEFAULT_CLASS_ALLOW_LIST, settings["class"]]}
    write_json(workspace / "stock" / "local" / "resources.json", resources)
    recipe.execute(SimEnv(clients=sites, num_threads=len(sites), workspace_root=str(workspace)))


if __name__ == "__main__":
    main()
