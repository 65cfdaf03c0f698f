"""What the models of a new site's labelled cases are worth: means over runs and draws, with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from consilia.evaluation.bootstrap import RESAMPLES, Array
from consilia.evaluation.paired import Draws, draw
from consilia.evaluation.rounds import enough_for_a_mean
from consilia.evaluation.study_metrics import METRICS, RANKED, metric_values
from consilia.record.study_result import Cell, Support
from consilia.record.study_unseen import NewSiteScore
from consilia.study.adaptation import adapted
from consilia.study.cells import NEEDED, tested_of
from consilia.study.plan import Planned
from consilia.study.results import folds_of, run_columns

PLACE = ["data", "option", "site"]
ROW = ["method", "cases"]


class Part(NamedTuple):
    """The values by metric (R,) of a method and a number of cases at one site, and what they were drawn with.

    ``enough``: whether the fixed test is large enough for a mean of AUROC or C-index over sites.
    """

    values: dict[str, Array]
    draws: Draws
    score: NewSiteScore
    enough: bool = True


def predictions_at_new_sites(plan: Sequence[Planned]) -> pd.DataFrame:
    """A row per run, number of labelled cases, draw and test case of what the adaptations of a plan have left.

    A row without a case stands for what could not be made, with its ``reason``.
    """
    frames = []
    folds = folds_of(plan)
    for one in plan:
        assert one.new_site is not None
        site = one.federation.unseen
        assert site is not None
        run = {**run_columns(one, folds), "site": site}
        done = None
        if one.status == "done" and one.config is not None:
            done = adapted(one.config, one.sites, one.folder, site, one.new_site)
        steps, found = ((), pd.DataFrame()) if done is None else (done[0].steps, done[1])
        lacking = [(step.cases, step.reason) for step in steps if step.reason]
        if done is None:
            reason = ": ".join(filter(None, (str(one.status), one.reason)))
            lacking = [(cases, reason) for cases in one.new_site.cases]
        frames += [pd.DataFrame([{**run, "cases": str(cases), "reason": reason}]) for cases, reason in lacking]
        if len(found):
            counts = {str(step.cases): step.labelled for step in steps}
            found["cases"] = found["cases"].astype(str)
            frames.append(found.assign(**run, labelled=found["cases"].map(counts), reason=""))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def new_site_scores(table: pd.DataFrame, *, seed: int = 0, draws: int = RESAMPLES) -> list[NewSiteScore]:
    """Every metric of every method and number of cases, at each site and as the mean over sites.

    Drawn are the patients of the fixed test, the draws of labelled cases, and training seeds; one set of draws serves
    all methods, and the same draw of labelled cases is drawn for all of them.

    Args:
        table: of :func:`predictions_at_new_sites`.
        seed: of the draws.
        draws: how many.
    """
    if table.empty:
        return []
    found: list[NewSiteScore] = []
    for (data, option), cell in table.groupby(["data", "option"], sort=False):
        parts: dict[tuple[str, str], list[Part]] = {}
        seeds = sorted({int(value) for value in cell["seed"]})
        sites = cell["site"].unique()
        for site, rows in cell.groupby("site", sort=False):
            for part in _at_site(rows, seeds, str(site), seed, f"{data}/{option}/new site", draws):
                parts.setdefault((part.score.method, part.score.cases), []).append(part)
                found += _scores(part)
        for own in parts.values():
            if len(own) == len(sites) > 1:
                found += _means(own)
        lacking = cell[cell["reason"] != ""].drop_duplicates([*PLACE, *ROW, "reason"])
        for row in lacking[[*PLACE, *ROW, "reason"]].to_dict("records"):
            found.append(NewSiteScore(**{str(name): str(value) for name, value in row.items()}))
    return found


def _at_site(
    rows: pd.DataFrame, seeds: Sequence[int], site: str, seed: int, purpose: str, draws: int
) -> Iterator[Part]:
    """What each method is worth at one site with each number of cases."""
    rows = rows[rows["reason"] == ""].copy()
    if rows.empty:
        return
    task = next(
        task for task, names in NEEDED.items() if all(name in rows and rows[name].notna().any() for name in names)
    )
    people = sorted(rows["patient"].astype(str).unique())
    rows["unit"] = rows["patient"].astype(str).map({name: place for place, name in enumerate(people)})
    count = int(rows["draw"].max()) + 1
    drawn = draw([site] * len(people), len(seeds), seed=seed, purpose=purpose, draws=draws)
    labelled = draw([f"{site}, labelled cases"] * count, 1, seed=seed, purpose=purpose, draws=draws).patients
    cell = _cell(rows, task, site, len(people))
    for (method, cases), own in rows.groupby(ROW, sort=False):
        several = int(own["draw"].max()) + 1
        # One draw, of no case or of all of them, is no sample of draws.
        times = labelled if several == count else np.ones((drawn.count, several), dtype=np.uint16)
        flat = (drawn.seeds[:, :, None] * times[:, None, :]).reshape(drawn.count, -1)
        joint = Draws(drawn.patients, flat)
        places = own["seed"].map({value: place for place, value in enumerate(seeds)})
        own = own.assign(seed_place=places * several + own["draw"].astype(int))
        tested = tested_of(own, cell.model_copy(update={"seeds": tuple(range(flat.shape[1]))}), "personal")
        blocks = [metric_values(task, tested, weights) for weights in joint.blocks(len(own))]
        names = [metric.name for metric in METRICS[task] if (metric.name, site) in blocks[0]]
        values = {name: joint.over_seeds(np.concatenate([block[name, site] for block in blocks])) for name in names}
        yield Part(
            values,
            joint,
            NewSiteScore(
                data=str(own["data"].iloc[0]),
                option=str(own["option"].iloc[0]),
                method=str(method),
                site=site,
                cases=str(cases),
                labelled=int(own["labelled"].iloc[0]),
                draws=several,
                runs=len(own[["fold", "seed"]].drop_duplicates()),
                patients=len(people),
                of_each=cell.of_each,
            ),
            enough_for_a_mean(len(people), cell.of_each, task),
        )


def _cell(rows: pd.DataFrame, task: str, site: str, patients: int) -> Cell:
    """The fixed test, as what makes arrays of predictions asks for it."""
    once = rows.drop_duplicates("case")
    of_each: tuple[int, ...] = ()
    if task == "classification":
        classes = sum(str(name).startswith("p") and str(name)[1:].isdigit() for name in rows.dropna(axis=1, how="all"))
        of_each = tuple(int((once["label"] == k).sum()) for k in range(classes))
    if task == "survival":
        of_each = tuple(int((once["event"].astype(bool) == had).sum()) for had in (False, True))
    support = Support(site=site, patients=patients, cases=len(once), of_each=of_each)
    first: dict[Any, Any] = rows.iloc[0].to_dict()
    return Cell(
        data=str(first["data"]),
        option=str(first["option"]),
        task=task,
        metrics=(),
        methods=(),
        folds=(),
        seeds=(),
        patients=patients,
        cases=len(once),
        of_each=of_each,
        sites=(support,),
    )


def _scores(part: Part) -> Iterator[NewSiteScore]:
    for name, values in part.values.items():
        yield part.score.model_copy(update={"metric": name, **part.draws.estimate(values)})


def _means(parts: Sequence[Part]) -> Iterator[NewSiteScore]:
    """The plain means over sites: of AUROC and the like of those with enough patients and cases, else of all."""
    names = [name for name in parts[0].values if all(name in part.values for part in parts)]
    large = [part for part in parts if part.enough]
    for chosen, own in (
        (large, [name for name in names if name in RANKED]),
        (parts, [name for name in names if name not in RANKED]),
    ):
        if chosen and own:
            yield from _scores(_mean(chosen, own))


def _mean(parts: Sequence[Part], names: Sequence[str]) -> Part:
    """The mean for each draw; patients and labelled cases are drawn at each site for itself."""
    values = {name: np.mean([part.values[name] for part in parts], axis=0) for name in names}
    own = {
        "site": "",
        "labelled": None,
        "runs": sum(part.score.runs for part in parts),
        "patients": sum(part.score.patients for part in parts),
        "of_each": tuple(map(sum, zip(*(part.score.of_each for part in parts), strict=True))),
    }
    return Part(values, parts[0].draws, parts[0].score.model_copy(update=own))
