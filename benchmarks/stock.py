"""NVFlare's stock FedAvg recipe on the same work, with a Client API script as its users write it."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv

from benchmarks.workload import MODEL, Workload, per_round

SCRIPT = Path(__file__).with_name("stock_client.py")


def stock_recipe(work: Workload, site_files: dict[str, Path], folder: Path) -> float:
    """Run the recipe in the simulator.

    Returns:
        Seconds per round: median over the sites of the time between two models received, from round 2 on.
    """
    clocks = folder / "clocks"
    clocks.mkdir(parents=True)
    settings = {
        "sites": str(folder / "sites"),
        "clocks": str(clocks),
        "model": work.model_args,
        "training": work.config().training.model_dump(mode="json"),
        "seed": work.config().seed,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    recipe = FedAvgRecipe(
        name="stock",
        model={"class_path": MODEL, "args": work.model_args},
        min_clients=work.sites,
        # One round more, because a round is timed by the arrival of the next round's model.
        num_rounds=work.rounds + 1,
        train_script=str(SCRIPT),
        train_args=str(folder / "settings.json"),
    )
    workspace = folder / "workspace"
    local = workspace / "stock" / "local"
    local.mkdir(parents=True)
    # The simulator's default list refuses the model's class.
    resources = {"format_version": 2, "class_allow_list": [*DEFAULT_CLASS_ALLOW_LIST, MODEL]}
    (local / "resources.json").write_text(json.dumps(resources))
    recipe.execute(SimEnv(clients=sorted(site_files), num_threads=work.sites, workspace_root=str(workspace)))
    arrivals = [[float(line) for line in path.read_text().split()] for path in sorted(clocks.iterdir())]
    if len(arrivals) != work.sites or any(len(times) != work.rounds + 1 for times in arrivals):
        raise RuntimeError(f"the stock run did not come to its end; its logs are in {workspace}")
    return median(per_round(times[1:]) for times in arrivals)
