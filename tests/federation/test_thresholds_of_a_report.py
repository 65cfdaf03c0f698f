"""A site's own report decides at the thresholds at which the record judges the models."""

from __future__ import annotations

import json

import pandas as pd

from consilia.data.site import load_site_config
from consilia.federation.messages import Request
from consilia.federation.site import Site
from consilia.simulation.federation import load_federation
from tests.federation.support import initial_state, small


def test_a_report_answers_at_the_models_thresholds(tmp_path) -> None:
    files = load_federation("wisconsin", tmp_path / "sites")
    site = Site(small(), load_site_config(next(iter(files.values()))))
    request = Request(kind="personalize", round=3, final=True, threshold=0.3)
    reply = json.loads(site.answer(request, initial_state(site.config)).content)
    shared, personal = reply["received"], reply["personal"]
    own = personal["validation"]["threshold"]
    assert shared["test"]["operating"]["threshold"] == 0.3
    table = pd.read_csv(site.folder / "report-last_predictions.csv")
    positive = site.data.class_names[1]
    for model, threshold, judged in (("global", 0.3, shared), ("personal", own, personal)):
        says = table[f"{model}_p_{positive}"] >= threshold
        assert (table[f"{model}_answer_at_threshold"] == positive).tolist() == says.tolist()
        found = says[table["label"] == positive].mean()
        assert abs(judged["test"]["operating"]["sensitivity"] - found) < 0.006  # the site may round what it sends
    html = (site.folder / "report-last.html").read_text().replace("\u00a0", " ")
    assert f"Says {positive} above 30 % (chosen on validation cases)." in html
    assert f"Says {positive} above {100 * own:.3g} % (chosen on validation cases)." in html
