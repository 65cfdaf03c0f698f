"""What whoever reads a run's results must know first: a model that overfits or answers one class, data counted twice.

Found from the record alone, and so from what the sites have released: nothing is asked of them for it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Literal

from consilia.data import preprocessing
from consilia.evaluation.rounds import FEWEST_OF_A_CLASS, weighted_mean
from consilia.federation.selection import validation_value
from consilia.record.schema import FinalModels, Metrics, Record, RoundRecord, SiteInfo, SiteMetrics

Finals = Mapping[Literal["last", "best"], FinalModels]

RISE = 0.1
"""By what share of itself, and by how many nats at least (LEAST), the validation loss must rise to be worth a word."""

LEAST = 0.02
LASTING = 2
"""Newest evaluations that must all lie above: one alone may be chance."""


def warnings_of(record: Record) -> list[str]:
    """All warnings of a run that has come to its end, each a sentence or two."""
    return [*same_data(record.sites), *overfitting(record), *one_answer(record.final, record.class_names)]


def same_data(sites: Mapping[str, SiteInfo]) -> list[str]:
    """Sites whose data have one fingerprint: the same cases would count twice, and be trained and tested on."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, info in sorted(sites.items()):
        groups[info.fingerprint].append(name)
    return [
        f"{_listed(names)} have the same data (one fingerprint): their cases count more than once. Look which files "
        "their site.yaml name"
        for names in groups.values()
        if len(names) > 1
    ]


def unlike_layouts(sites: Mapping[str, SiteInfo]) -> list[str]:
    """For each key in which training sites prepare their inputs otherwise than most do: the sites and their values.

    Such keys are left out of the card of the run's models.
    """
    found = {name: preprocessing.from_lines(info.layout) for name, info in sorted(sites.items()) if not info.test_only}
    sentences = []
    for key in sorted({key for layout in found.values() for key in layout}):
        values = {name: layout.get(key, "nothing") for name, layout in found.items()}
        usual = Counter(values.values()).most_common(1)[0][0]
        others = [f"{name} {value}" for name, value in values.items() if value != usual]
        if others:
            sentences.append(
                f"training sites prepare their inputs unlike in {key}: {', '.join(others)}; the others {usual}. The "
                "model's card leaves it out"
            )
    return sentences


def overfitting(record: Record) -> list[str]:
    """The pooled validation loss of the global model rose, lastingly, while the training loss fell."""
    losses = {
        evaluation.version: loss
        for evaluation in record.evaluations
        if evaluation.model == "global" and evaluation.version > 0
        if (loss := validation_value(evaluation.sites, "loss")) is not None
    }
    if len(losses) <= LASTING:
        return []
    best = min(losses, key=lambda version: (losses[version], version))
    newest = sorted(losses)[-LASTING:]
    rise = min(losses[version] for version in newest) - losses[best]
    then, now = (_training_loss(record.rounds, version) for version in (best, newest[-1]))
    if best in newest or rise < max(LEAST, RISE * losses[best]) or then is None or now is None or now >= then:
        return []
    return [
        f"overfitting: after round {best} the validation loss rose from {losses[best]:.3f} to {losses[newest[-1]]:.3f} "
        f"(round {newest[-1]}) while the training loss fell from {then:.3f} to {now:.3f}. The model of the last round "
        f"is worse than that of round {best}: use the best one, fewer rounds or training.augmentation"
    ]


def _training_loss(rounds: list[RoundRecord], number: int) -> float | None:
    """Mean over the training cases of a round's sites; None where they report no training loss."""
    sent = [one for item in rounds if item.round == number for one in item.contributions.values()]
    found = [(one.fields["train_loss"], one.samples) for one in sent if "train_loss" in one.fields]
    return weighted_mean(found)


def one_answer(final: Finals, class_names: list[str]) -> list[str]:
    """Saved models that find no case of a class of two, or answer one class of more, though a site has others."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    versions = {key: models.version for key, models in final.items()}
    for key, models in sorted(final.items()):
        # Where the best model is the last one, it is named once. Version 0 has learnt nothing, as the majority's.
        if not models.version or (key == "best" and versions.get("last") == models.version):
            continue
        parts: dict[str, Mapping[str, SiteMetrics]] = {"global": models.global_, "personal": models.personal}
        for kind, by_site in parts.items():
            for site, metrics in sorted(by_site.items()):
                test = metrics.test
                for problem in _problems(test, class_names) if isinstance(test, Metrics) else ():
                    found[f"{kind} model of round {models.version}", problem].append(site)
    return [f"the {model} {problem} at {_listed(sites)}" for (model, problem), sites in found.items()]


def _problems(test: Metrics, class_names: list[str]) -> Iterator[str]:
    for name, task in sorted(test.tasks.items()):
        yield from (f"{problem} of {name}" for problem in _problems(task, []))
    if test.tasks:
        return
    decided = test.operating
    if decided is None or test.positives is None:
        # Who answers one class finds all of that one and none of the others: the mean recall is 1 / classes.
        classes = max(len(class_names), 2)
        chance = abs(test.balanced_accuracy - 1 / classes) < 1e-9 or test.balanced_accuracy == round(1 / classes, 3)
        if test.auroc is not None and chance and test.count >= FEWEST_OF_A_CLASS * classes:
            yield "seems to answer one class only (balanced accuracy of chance)"
        return
    of_class = (test.count - test.positives, test.positives)
    for index, (recall, cases) in enumerate(zip((decided.specificity, decided.sensitivity), of_class, strict=True)):
        if recall == 0 and cases >= FEWEST_OF_A_CLASS:  # of fewer a model may miss all by chance
            name = class_names[index] if len(class_names) == len(of_class) else f"class {index}"
            yield f"finds no case of {name}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
