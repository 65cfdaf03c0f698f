"""A model persistor that writes safetensors: no pickle, also for NVFlare's own workflows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable
from nvflare.app_common.abstract.model_persistor import ModelPersistor

from consilia.core.tensor_files import write_tensors
from consilia.federation.config import run_config
from consilia.federation.initial import initial_state
from consilia.federation.server_settings import SERVER_FILE, ServerSettings, load_server_settings
from consilia.flare.messages import register_tensors
from consilia.methods.registry import AllowedMethods
from consilia.models.exchange import count_elements

FILE = "global_model.safetensors"


class SafetensorsPersistor(ModelPersistor):  # type: ignore[misc]
    """Builds the initial global model from a class that the server lists, and saves global models as safetensors.

    Args:
        config: the run, as :meth:`consilia.federation.config.RunConfig.to_json` gives it.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.all_parameters = 0
        self._file = Path(FILE)
        self._settings = ServerSettings()
        register_tensors()

    def handle_event(self, event: str, fl_ctx: FLContext) -> None:
        """At the start of the run: find the app's folder and what the server allows and has."""
        if event == EventType.START_RUN:
            workspace = fl_ctx.get_engine().get_workspace()
            self._file = Path(workspace.get_app_dir(fl_ctx.get_job_id())) / FILE
            self._settings = load_server_settings(Path(workspace.get_site_config_dir()) / SERVER_FILE)

    def load_model(self, fl_ctx: FLContext) -> ModelLearnable:
        """The initial global state, what is exchanged of the model, as torch tensors."""
        settings = self._settings
        allowed = AllowedMethods(settings.allow_methods, Path(SERVER_FILE))
        config = run_config(self.config, source="this job", allowed=allowed)
        model = config.model.build(seed=config.seed, allowed=settings.allow_models, folders=settings.foundation_models)
        self.all_parameters = count_elements(model)
        return make_model_learnable(initial_state(config, model), {})

    def save_model(self, model: ModelLearnable, fl_ctx: FLContext) -> None:
        """Write the global model, atomically, as app_server/global_model.safetensors."""
        write_tensors(self._file, model[ModelLearnableKey.WEIGHTS])
