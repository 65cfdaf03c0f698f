"""A model persistor that writes safetensors: no pickle, also for NVFlare's own workflows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable
from nvflare.app_common.abstract.model_persistor import ModelPersistor

from consilia.core.tensor_files import write_tensors
from consilia.federation.config import ModelConfig
from consilia.federation.server_settings import SERVER_FILE, ServerSettings, load_server_settings
from consilia.flare.messages import register_tensors
from consilia.models.exchange import ExchangeType, count_elements, exchanged_state

FILE = "global_model.safetensors"


class SafetensorsPersistor(ModelPersistor):  # type: ignore[misc]
    """Builds the initial global model from a class that the server lists, and saves global models as safetensors.

    Args:
        model_class: dotted path of the model class.
        model_args: its keyword arguments.
        foundation: the pre-trained model it builds on, as the run's ``model.foundation`` has it.
        exchange_dtype: ``float16`` halves the floating tensors.
        seed: the run's seed, which decides the initial weights.
    """

    def __init__(
        self,
        model_class: str,
        model_args: dict[str, Any],
        foundation: dict[str, Any] | None = None,
        exchange_dtype: ExchangeType = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model_class, self.model_args, self.seed = model_class, model_args, seed
        self.foundation, self.exchange_dtype = foundation, exchange_dtype
        self.all_parameters = 0
        # NVFlare leaves defaults out of an exported job; a seed should stand there to be read.
        self._always_serialize_args = ["seed"]
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
        config = ModelConfig.model_validate(
            {"class": self.model_class, "args": self.model_args, "foundation": self.foundation}
        )
        settings = self._settings
        model = config.build(seed=self.seed, allowed=settings.allow_models, folders=settings.foundation_models)
        self.all_parameters = count_elements(model)
        return make_model_learnable(exchanged_state(model, self.exchange_dtype), {})

    def save_model(self, model: ModelLearnable, fl_ctx: FLContext) -> None:
        """Write the global model, atomically, as app_server/global_model.safetensors."""
        write_tensors(self._file, model[ModelLearnableKey.WEIGHTS])
