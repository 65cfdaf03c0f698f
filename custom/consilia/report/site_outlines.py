"""What a site's report says in words of a model's outlines, beside an ellipse drawn into the same box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from consilia.evaluation.segmentation import CaseMetrics
from consilia.report.site_words import Finding, range_of_mean

POOR = 0.5
"""An outline with a lower Dice is hardly of any use."""

SHOWN = {
    "box": "In a box around it",
    "jitter": "In a box that is up to a tenth off",
    "image": "Without a box, on the whole image",
}


@dataclass(frozen=True)
class Outlines:
    """A model's outlines of N cases.

    Args:
        name: of the model.
        cases: metrics of each case by prompt setting.
        ellipse: Dice (N,) of the ellipse in the same box, by prompt setting.
        patients: of each case; empty where they are not known.
        structure: what is outlined.
    """

    name: str
    cases: Mapping[str, CaseMetrics]
    ellipse: Mapping[str, Tensor]
    patients: tuple[str, ...]
    structure: str

    @cached_property
    def setting(self) -> str:
        """The prompt setting that comes first: the box where there is one."""
        return "box" if "box" in self.cases else next(iter(self.cases))

    def findings(self) -> list[Finding]:
        """What is said of the model, most important first."""
        found = [self._overlap(self.setting), self._missed()]
        if self.setting in self.ellipse:
            found.append(self._beside_ellipse())
        return found + [self._overlap(name) for name in SHOWN if name in self.cases and name != self.setting]

    def _overlap(self, setting: str) -> Finding:
        dice = self.cases[setting].dice
        there = dice[dice.isfinite()]
        shown = SHOWN.get(setting, setting)
        if not len(there):
            return Finding(f"{shown}: nothing can be said", f"No case has a {self.structure} in its true mask.")
        ends = range_of_mean(dice, self.patients)
        span = "" if ends is None else f"In repeated samples {_score(ends[0])} to {_score(ends[1])}. "
        missed = int(self.cases[setting].missed.sum())
        if setting != self.setting:
            return Finding(f"{shown}: Dice {_score(float(there.mean()))}", f"{span}Misses {missed} of {len(there)}.")
        tenth, half = torch.quantile(there, torch.tensor([0.1, 0.5], dtype=there.dtype)).tolist()
        return Finding(
            f"{shown}: Dice {_score(float(there.mean()))}",
            f"{span}Half of the cases lie above {_score(half)}, one in ten below {_score(tenth)}. "
            "Dice is the overlap with the true outline: 1 is the same, 0 none.",
        )

    def _missed(self) -> Finding:
        cases = self.cases[self.setting]
        there = cases.dice.isfinite()
        missed, poor = int(cases.missed.sum()), int((cases.dice[there] < POOR).sum())
        others = {0: "no other outline is", 1: "1 more outline is"}.get(
            poor - missed, f"{poor - missed} more outlines are"
        )
        ends = range_of_mean(torch.where(there, cases.missed.double(), torch.nan), self.patients) if missed else None
        span = (
            ""
            if ends is None
            else "In repeated samples {:.0f} to {:.0f}. ".format(*(int(there.sum()) * e for e in ends))
        )
        return Finding(
            f"Misses {missed or 'none'} of {int(there.sum())}",
            f"{span}Missed: nothing is outlined; {others} poor (Dice below {POOR}). The worst are shown first below.",
        )

    def _beside_ellipse(self) -> Finding:
        own, ellipse = self.cases[self.setting].dice, self.ellipse[self.setting]
        there = own.isfinite() & ellipse.isfinite()
        if not there.any():
            return Finding("An ellipse in the same box: nothing can be said")
        gained = torch.where(there, own - ellipse, torch.nan)
        mean, ends = float(gained[there].mean()), range_of_mean(gained, self.patients)
        span = "" if ends is None else f" (in repeated samples {_change(ends[0])} to {_change(ends[1])})"
        verdict = ""
        if ends is not None and ends[1] < 0:
            verdict = " Drawing an ellipse does better than the model."
        elif ends is not None and ends[0] <= 0:
            verdict = " The difference may be chance."
        return Finding(
            f"An ellipse in the same box: Dice {_score(float(ellipse[there].mean()))}",
            f"The model is {_change(mean)}{span}.{verdict}",
        )


def _score(value: float) -> str:
    return f"{value:.2f}"


def _change(value: float) -> str:
    return "as good" if abs(value) < 0.005 else f"{abs(value):.2f} {'better' if value > 0 else 'worse'}"
