"""What a site that was left out gains by a few labelled cases of its own: how many, and which.

Its cases are divided as its own splits say: the test split is the fixed test, labelled cases are drawn from the others.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from consilia.core.determinism import derive_seed
from consilia.core.errors import CannotTrain
from consilia.core.schema import Strict
from consilia.data.dataset import Split
from consilia.data.problems import Problems
from consilia.data.readers import reader_for
from consilia.data.site import SiteConfig
from consilia.data.splits import site_splits

Count = NonNegativeInt | Literal["all"]
Places = NDArray[np.int64]
EVERY: Final = "all"


class NewSite(Strict):
    """The key ``new_site`` of a study that leaves a site out.

    Attributes:
        cases: numbers of labelled cases; ``all``: every one that is no test case.
        draws: random draws of so many cases; of none and of all of them there is one.
    """

    cases: tuple[Count, ...] = (0, 5, 20, EVERY)
    draws: PositiveInt = Field(20, le=1000)

    @field_validator("cases", mode="before")
    @classmethod
    def _counts(cls, values: Any) -> Any:
        found = list(values) if isinstance(values, list | tuple) else []
        numbers = [value for value in found if value != EVERY]
        whole = all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in numbers)
        if not found or not whole or len(set(found)) < len(found):
            raise ValueError(f"expected different whole numbers of cases from 0 on, or {EVERY}: [0, 5, 20, {EVERY}]")
        return found


def divided(settings: SiteConfig, dataset: str, whole: Split) -> tuple[Places, Places]:
    """The places of the cases that can be labelled (L,), and of the fixed test (T,), among all cases of the site.

    Args:
        settings: of the site, which tests only.
        dataset: its name.
        whole: all its cases.

    Raises:
        CannotTrain: its own splits leave no case for one of the two.
    """
    # Left out, the site tests with all its cases; here its splits are those that it has as a training site.
    spec, problems = settings.dataset(dataset).model_copy(update={"test_only": False}), Problems()
    reader, where = reader_for(spec), f"site {settings.site}, dataset {dataset}"
    cases = reader.index(problems)
    problems.raise_if_any(where)
    content = reader.content(cases)
    splits = site_splits(cases, spec, settings.dataset_dir(dataset), problems, save=False, content=content)
    problems.raise_if_any(where)
    by_case = dict(zip(cases.ids, splits, strict=True))
    tests = np.array([by_case[case] == "test" for case in whole.case_ids], dtype=bool)
    if tests.all() or not tests.any():
        lacking = "no case to label" if tests.all() else "no test case"
        raise CannotTrain(f"{where}: the site's own splits leave {lacking}")
    return np.flatnonzero(~tests), np.flatnonzero(tests)


def classes_of(split: Split, task: str) -> Places:
    """What a draw must have of each kind (N,): the class, of a survival whether the event came; else all alike."""
    if task == "classification":
        return split.labels.numpy().astype(np.int64)
    if task == "survival":
        return split.labels[:, 1].numpy().astype(np.int64)
    return np.zeros(len(split), dtype=np.int64)


def labelled(classes: Places, cases: Count, draw: int, site: str) -> Places:
    """The labelled cases of one draw, as places in ``classes`` (L,), in ascending order.

    First comes one random case of each class, then the others at random: every class is there as soon as there are as
    many cases. The same draw of more cases has those of fewer among them, whatever the method and the run's seed.
    """
    if cases == EVERY:
        return np.arange(len(classes))
    order = np.random.default_rng(derive_seed(0, "new site", site, draw)).permutation(len(classes))
    first = np.sort(np.unique(classes[order], return_index=True)[1])
    found: Places = np.sort(np.concatenate([order[first], np.delete(order, first)])[:cases])
    return found
