"""FedKIM as a method: several tasks at the sites, knowledge injection at the server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilia.methods.client import ClientContext
from consilia.methods.contract import Method
from consilia.methods.fedkim.answers_page import ANSWERS
from consilia.methods.fedkim.cases import fingerprint, load_server_cases
from consilia.methods.fedkim.client import FedKIMClient
from consilia.methods.fedkim.config import FedKIMConfig
from consilia.models.config import FoundationConfig

if TYPE_CHECKING:
    from consilia.methods.fedkim.server import FedKIMServer
    from consilia.methods.server import ServerContext
    from consilia.record.schema import Record
    from consilia.report.panel import Panel, TextTable


class FedKIM(Method[FedKIMConfig]):
    """Sites train light encoders and heads; the server injects what they know into a frozen language model."""

    name = "fedkim"
    Config = FedKIMConfig
    any_model = False
    personal = False
    several_datasets = True
    private_files = (ANSWERS,)

    def datasets(self) -> dict[str, int]:
        """The seen tasks, each a dataset, and the number of their answers."""
        task_definitions = self.config.task_definitions
        return {name: len(task_definitions.tasks[name].answers) for name in task_definitions.seen}

    def model_arguments(self) -> dict[str, Any]:
        """The extractor's heads."""
        seen = {name: self.config.task_definitions.tasks[name] for name in self.config.task_definitions.seen}
        heads = {name: {"modalities": list(task.encoded), "answers": len(task.answers)} for name, task in seen.items()}
        return {"heads": heads}

    def server_fingerprint(self, data: Path | None) -> str | None:
        """Of the public data that the server injects with."""
        return None if data is None else fingerprint(load_server_cases(data, self.config.task_definitions))

    @classmethod
    def panels(cls, records: Sequence[Record]) -> list[Panel]:
        """What the language models answer."""
        from consilia.methods.fedkim.panels import comparison_panels, run_panels

        return run_panels(records[0]) if len(records) == 1 else comparison_panels(records)

    @classmethod
    def tables(cls, records: Sequence[Record]) -> list[TextTable]:
        """AUROC of the language models by task."""
        from consilia.methods.fedkim.panels import text_tables

        return text_tables(records)

    @classmethod
    def scalars(cls, record: Record) -> Iterable[tuple[str, int, float]]:
        """Loss and validation metrics of the injection."""
        from consilia.methods.fedkim.panels import scalars

        return scalars(record)

    def server_foundations(self) -> tuple[FoundationConfig, ...]:
        """The language model."""
        return (self.config.language_model,)

    def client(self, context: ClientContext) -> FedKIMClient:
        """The site's half."""
        return FedKIMClient(self, context)

    def server(self, context: ServerContext) -> FedKIMServer:
        """The server's half; the language model's libraries are needed there alone."""
        from consilia.methods.fedkim.server import FedKIMServer

        return FedKIMServer(self, context)
