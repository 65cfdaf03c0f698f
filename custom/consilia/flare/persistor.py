"""A model persistor that writes safetensors: no pickle, also for NVFlare's own workflows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable
from nvflare.app_common.abstract.model_persistor import ModelPersistor
from safetensors.torch import load_file

from consilia.core.files import write_tensors
from consilia.federation.server_settings import SERVER_FILE, load_server_settings
from consilia.flare.messages import register_tensors
from consilia.models.build import build_model

FILE = "global_model.safetensors"


class SafetensorsPersistor(ModelPersistor):  # type: ignore[misc]
    """Builds the initial global model from a class that the server lists, and saves global models as safetensors.

    Args:
        model_class: dotted path of the model class.
        model_args: its keyword arguments.
        seed: the run's seed, which decides the initial weights.
        source_file: a safetensors file on the server with initial weights, instead of seeded ones.
    """

    def __init__(
        self, model_class: str, model_args: dict[str, Any], seed: int = 0, source_file: str | None = None
    ) -> None:
        super().__init__()
        self.model_class, self.model_args, self.seed, self.source_file = model_class, model_args, seed, source_file
        # NVFlare leaves defaults out of an exported job; a seed should stand there to be read.
        self._always_serialize_args = ["seed"]
        self._file = Path(FILE)
        self._allowed: tuple[str, ...] = ()
        register_tensors()

    def handle_event(self, event: str, fl_ctx: FLContext) -> None:
        """At the start of the run: find the app's folder and the server's list of model classes."""
        if event == EventType.START_RUN:
            workspace = fl_ctx.get_engine().get_workspace()
            self._file = Path(workspace.get_app_dir(fl_ctx.get_job_id())) / FILE
            settings = load_server_settings(Path(workspace.get_site_config_dir()) / SERVER_FILE)
            self._allowed = tuple(settings.allow_models)

    def load_model(self, fl_ctx: FLContext) -> ModelLearnable:
        """The initial global model's state as torch tensors."""
        model = build_model(self.model_class, self.model_args, seed=self.seed, allowed=self._allowed)
        if self.source_file is not None:
            model.load_state_dict(load_file(self.source_file))
        state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        return make_model_learnable(state, {})

    def save_model(self, model: ModelLearnable, fl_ctx: FLContext) -> None:
        """Write the global model, atomically, as app_server/global_model.safetensors."""
        write_tensors(self._file, model[ModelLearnableKey.WEIGHTS])
