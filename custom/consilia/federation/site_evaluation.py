"""What a site finds when it evaluates a model on its own cases."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from consilia.data.dataset import SiteData, Split
from consilia.data.limits import SiteLimits
from consilia.evaluation.classification import combined_metrics
from consilia.evaluation.thresholds import Threshold
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
        return self.metrics("global", version, slow=request.final, threshold=request.threshold)

    def variants(self, request: Request) -> dict[str, SiteMetrics]:
        """Metrics of the final global model, just received, as each of the method's variants has it."""
        found = {}
        for name in self.method.variants() if request.final else ():
            with self.client.variant(name):
                found[name] = self.metrics(name, version=None, chooses=False)[0]
        return found

    def metrics(
        self,
        kind: str,
        version: int | None,
        *,
        slow: bool = False,
        threshold: Threshold = None,
        chooses: bool = True,
    ) -> tuple[SiteMetrics, dict[str, Predictions]]:
        """Metrics of the model as it now is, as they leave the site, and its predictions on the test cases by dataset.

        With a version the metrics hold also the flips since the last evaluation of that kind; over several datasets
        of unlike cases none are counted.

        Args:
            kind: of the model.
            version: of the model, where it counts in the history.
            slow: with what only a final evaluation has, on the test cases alone.
            threshold: of the model, for these metrics. A threshold that the site withholds is used by nobody.
            chooses: whether the validation cases choose a threshold.
        """
        found: dict[str, dict[str, Any] | None] = {}
        own: float | None = None
        predictions: dict[str, Predictions] = {}
        for part in ("validation", "test"):
            splits = {name: dataset.split(part) for name, dataset in self.data.datasets.items()}
            predictions = {name: self.client.predict(split, name) for name, split in splits.items()}
            metrics = self._metrics(part, splits, predictions, slow, own if threshold == "own" else threshold)
            if part == "validation" and chooses and not self.data.trained_together:
                self._add_threshold(metrics[self.data.name], predictions[self.data.name])
            if part == "test" and version is not None and not self.data.trained_together:
                counted = metrics[self.data.name]
                if counted is not None:
                    counted |= self._flips(kind, version, predictions[self.data.name])
            sent = {name: releasable(each, self._fewest[name, part], self.limits) for name, each in metrics.items()}
            found[part] = combined_metrics(sent) if self.data.trained_together else sent[self.data.name]
            if part == "validation":
                # As it leaves the site, so that what is said of it is true of the number that is sent.
                own = (found[part] or {}).get("threshold")
        return SiteMetrics.model_validate(found), predictions

    def _metrics(
        self,
        part: str,
        splits: Mapping[str, Split],
        predictions: Mapping[str, Predictions],
        slow: bool,
        threshold: float | None,
    ) -> dict[str, dict[str, Any] | None]:
        """Metrics on one split by dataset, as the task computes them."""
        slow = slow and part == "test"
        task = self.client.task
        return {
            name: task.metrics(predictions[name], split, slow=slow, threshold=threshold)
            for name, split in splits.items()
        }

    def _add_threshold(self, metrics: dict[str, Any] | None, predictions: Predictions) -> None:
        if metrics is not None:
            chosen = self.client.task.threshold(predictions, self.data.validation)
            metrics |= {} if chosen is None else {"threshold": chosen}

    def _flips(self, kind: str, version: int, predictions: Predictions) -> dict[str, int]:
        correct = self.client.task.is_correct(predictions, self.data.test)
        if correct is None:
            return {}
        negative, positive = self.store.count_flips(kind, version, correct)
        return {"negative_flips": negative, "positive_flips": positive}
