"""What a site finds when it evaluates a model on its own cases."""

from __future__ import annotations

import logging
from typing import Any

from consilia.federation.messages import Request
from consilia.federation.site_store import SiteStore
from consilia.methods.client import CannotEvaluate, Client
from consilia.methods.contract import Method, State
from consilia.methods.tasks import Predictions
from consilia.record.schema import SiteMetrics

log = logging.getLogger(__name__)


class SiteEvaluation:
    """Evaluates models at one site.

    Args:
        client: the method's half, which holds the model.
        method: of the run.
        data: the site's.
        store: what the site keeps of the run; among it which cases were correct at the last look.
    """

    def __init__(self, client: Client[Any], method: Method[Any], data: Any, store: SiteStore) -> None:
        self.client, self.method, self.data, self.store = client, method, data, store

    def global_metrics(self, request: Request, state: State) -> tuple[SiteMetrics | None, Predictions]:
        """Metrics of the received global model and its predictions on the test cases, if it can be judged here."""
        try:
            self.client.load(self.client.state_for("global", state))
        except CannotEvaluate as reason:
            log.warning("site %s does not evaluate the global model: %s", self.data.site, reason)
            return None, {}
        # The best round was evaluated when it was the newest: coming back to it is no news for the history.
        version = request.round if request.keep == "last" else None
        return self.metrics("global", version, slow=request.final)

    def variants(self, request: Request) -> dict[str, SiteMetrics]:
        """Metrics of the final global model, just received, as each of the method's variants has it."""
        found = {}
        for name in self.method.variants() if request.final else ():
            with self.client.variant(name):
                found[name] = self.metrics(name, version=None)[0]
        return found

    def metrics(self, kind: str, version: int | None, *, slow: bool = False) -> tuple[SiteMetrics, Predictions]:
        """Metrics of the model as it now is; with a version, also its flips since the last evaluation of that kind."""
        found: dict[str, dict[str, Any] | None] = {}
        predictions: Predictions = {}
        for name in ("validation", "test"):
            split = self.data.split(name)
            predictions = self.client.predict(split)
            metrics = self.client.evaluate(predictions, split, slow=slow)
            correct = self.client.is_correct(predictions, split)
            if metrics is not None and correct is not None and name == "test" and version is not None:
                negative, positive = self.store.count_flips(kind, version, correct)
                metrics |= {"negative_flips": negative, "positive_flips": positive}
            found[name] = metrics
        return SiteMetrics.model_validate(found), predictions
