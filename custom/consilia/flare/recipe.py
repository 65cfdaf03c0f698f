"""A run's configuration as an NVFlare job: the code is pre-installed at server and sites, the job carries no code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST
from nvflare.job_config.api import FedJob
from nvflare.recipe import SimEnv
from nvflare.recipe.spec import ExecEnv, Recipe

import consilia
from consilia.core.errors import ConfigError
from consilia.data.allowed import FoundationFolder
from consilia.federation.config import RunConfig, run_config
from consilia.federation.messages import REQUESTS
from consilia.federation.release_manifest import manifest_of
from consilia.flare.controller import ConsiliaController
from consilia.flare.executor import ConsiliaExecutor
from consilia.flare.persistor import SafetensorsPersistor

ALLOWED_CLASSES = (
    "consilia.flare.controller.ConsiliaController",
    "consilia.flare.executor.ConsiliaExecutor",
    "consilia.flare.persistor.SafetensorsPersistor",
)
"""What server and sites add to ``class_allow_list`` of their local/resources.json to run Consilia's jobs.

Whole names, although NVFlare takes an entry as a prefix: a short one would also allow what is not named here.
"""

POLLING_SECONDS = 0.05
"""How often a site asks for its next task; NVFlare's default of 2 s would let small rounds sleep."""


class ConsiliaRecipe(Recipe):  # type: ignore[misc]
    """A run of any method as an NVFlare recipe: for the simulator, or exported as a job folder.

    ``ConsiliaRecipe(method="fedprox", model={"class": "consilia.models.mlp.MLP", "args": {...}}, rounds=5)``

    Args:
        config: the run. Without it, ``settings`` say what the run is.
        name: the job's name; the run's label by default.
        min_clients: connected sites that NVFlare waits for before it starts the job.
        foundation_models: where models that do not ship with Consilia lie on this machine, if the run builds on one:
            what the sites send is read off the built model.
        **settings: keys of :class:`~consilia.federation.config.RunConfig`, ``method`` and ``model`` at least. A method
            with parameters is a mapping, ``{"method": "fedprox", "mu": 0.1}``.

    Raises:
        ConfigError: a key is unknown, a value is out of range, or there are both a config and settings.
    """

    def __init__(
        self,
        config: RunConfig | None = None,
        *,
        name: str | None = None,
        min_clients: int = 2,
        foundation_models: Mapping[str, FoundationFolder] | None = None,
        **settings: Any,
    ) -> None:
        if config is None:
            config = run_config(settings, source=type(self).__name__)
        elif settings:
            raise ConfigError(f"ConsiliaRecipe got a whole config and {sorted(settings)}: give one or the other")
        job = FedJob(name=name or config.label, min_clients=min_clients)
        # Keeps the package out of custom/: without code a job needs no BYOC right.
        job.set_app_packages(["consilia"])
        values = config.to_json()
        job.to_server(ConsiliaController(config=values, version=consilia.__version__), id="controller")
        job.to_server(SafetensorsPersistor(config=values), id="persistor")
        job.to_server({"server": {"task_request_interval": POLLING_SECONDS}})
        executor = ConsiliaExecutor(
            config=values, version=consilia.__version__, release_manifest=_manifest(config, foundation_models or {})
        )
        job.to_clients(executor, tasks=list(REQUESTS))
        super().__init__(job)
        self.config = config
        self.name: str = job.name

    def process_env(self, env: ExecEnv) -> None:
        """In the simulator, add our classes to the allow-list: its default refuses every class but NVFlare's own."""
        if isinstance(env, SimEnv):
            write_allow_list(Path(env.workspace_root) / self.name / "local")


def _manifest(config: RunConfig, folders: Mapping[str, FoundationFolder]) -> dict[str, Any]:
    model = config.model.build(seed=config.seed, allowed=(config.model.class_,), folders=folders)
    return manifest_of(config, model).to_json()


def write_allow_list(local: Path) -> None:
    """Write ``resources.json`` with NVFlare's default allow-list and our classes."""
    local.mkdir(parents=True, exist_ok=True)
    resources = {"format_version": 2, "class_allow_list": [*DEFAULT_CLASS_ALLOW_LIST, *ALLOWED_CLASSES]}
    (local / "resources.json").write_text(json.dumps(resources, indent=1))


def execute_in_simulator(recipe: ConsiliaRecipe, sites: Sequence[str], workspace_root: Path) -> None:
    """Run a recipe in NVFlare's simulator, one process per site; the workspace is ``workspace_root/<job name>``."""
    recipe.execute(SimEnv(clients=list(sites), workspace_root=str(workspace_root)))
