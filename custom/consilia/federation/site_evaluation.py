"""What a site finds when it evaluates a model on its own cases."""

from __future__ import annotations

import logging
from typing import Any

from consilia.data.dataset import SiteData
from consilia.data.limits import SiteLimits
from consilia.evaluation.classification import combined_metrics
from consilia.federation.messages import Request
from consilia.federation.metric_release import fewest_cases, releasable
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
        limits: of the site: which metrics leave it, and how many digits of them.
    """

    def __init__(
        self, client: Client[Any], method: Method[Any], data: SiteData, store: SiteStore, limits: SiteLimits
    ) -> None:
        self.client, self.method, self.data, self.store, self.limits = client, method, data, store, limits
        self._fewest = {
            (name, part): fewest_cases(dataset, part)
            for name, dataset in data.datasets.items()
            for part in ("validation", "test")
        }

    def global_metrics(self, request: Request, state: State) -> tuple[SiteMetrics | None, dict[str, Predictions]]:
        """Metrics of the received global model and its predictions on the test cases, if it can be judged here.

        Predictions are by dataset.
        """
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

    def metrics(
        self, kind: str, version: int | None, *, slow: bool = False
    ) -> tuple[SiteMetrics, dict[str, Predictions]]:
        """Metrics of the model as it now is, as they leave the site, and its predictions on the test cases by dataset.

        With a version the metrics hold also the flips since the last evaluation of that kind; over several datasets
        of unlike cases none are counted.
        """
        found: dict[str, dict[str, Any] | None] = {}
        predictions: dict[str, Predictions] = {}
        for part in ("validation", "test"):
            splits = {name: dataset.split(part) for name, dataset in self.data.datasets.items()}
            predictions = {name: self.client.predict(split, name) for name, split in splits.items()}
            metrics = {
                name: self.client.task.metrics(predictions[name], split, slow=slow) for name, split in splits.items()
            }
            if part == "test" and version is not None and not self.data.trained_together:
                own = metrics[self.data.name]
                if own is not None:
                    own |= self._flips(kind, version, predictions[self.data.name])
            sent = {name: releasable(own, self._fewest[name, part], self.limits) for name, own in metrics.items()}
            found[part] = combined_metrics(sent) if self.data.trained_together else sent[self.data.name]
        return SiteMetrics.model_validate(found), predictions

    def _flips(self, kind: str, version: int, predictions: Predictions) -> dict[str, int]:
        correct = self.client.task.is_correct(predictions, self.data.test)
        if correct is None:
            return {}
        negative, positive = self.store.count_flips(kind, version, correct)
        return {"negative_flips": negative, "positive_flips": positive}
