"""Train, validation and test of a site: drawn once, by patient, written down, and kept.

A patient is never in two splits. The file of a dataset's splits (case_id, patient, split) is reused as it is, so that a
site's test cases stay its test cases; when the data no longer fit it, loading stops and says so. Where case ids are
only positions in a data file, a fourth column (content) holds a short digest of each case, to notice another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from consilia.core.determinism import derive_seed
from consilia.core.errors import DataError
from consilia.core.files import write_bytes
from consilia.data.cases import Cases, canonical, read_table, require_columns
from consilia.data.dataset import SPLITS
from consilia.data.problems import Problems
from consilia.data.specs import CommonSpec, SplitSpec

UNUSED = "unused"  # training cases that train_cases leaves out
SMALLEST = 3  # with at least so many patients no split that should have cases stays empty
DRAW_ANEW = (
    "move this file away, and all splits are drawn anew (earlier test metrics then no longer compare, and models "
    "trained before have seen some of the new test cases)"
)


def draw_splits(cases: Cases, spec: SplitSpec) -> np.ndarray:
    """A split name (N,) for each case, by the scheme and seed of the specification."""
    if spec.scheme == "class_balanced":
        return class_balanced_splits(cases.labels, spec.test, spec.validation, spec.seed)
    if spec.scheme == "train_test_split":
        return sklearn_splits(cases.labels, spec)
    patients, labels, member = patient_labels(cases.patients, cases.labels)
    rng = np.random.default_rng(derive_seed(spec.seed, "splits", "patients"))
    order = rng.permutation(len(patients))
    order = order[np.argsort(labels[order], kind="stable")]
    by_patient = _allot(order, spec.fractions())
    return np.asarray(by_patient[member])


def patient_labels(patients: Sequence[str], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct patients (P,), each one's majority label (P,; ties: the smaller), each case's patient (N,)."""
    names, member = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    lowest = min(0, int(labels.min(initial=0)))
    votes = np.zeros((len(names), int(labels.max(initial=0)) - lowest + 1), dtype=np.int64)
    np.add.at(votes, (member, labels - lowest), 1)
    return names, votes.argmax(axis=1) + lowest, member


def _allot(order: np.ndarray, fractions: dict[str, float]) -> np.ndarray:
    """Walk along the patients sorted by class and give each to the split that lags furthest behind its fraction.

    That stratifies: within every run of one class, and over all, a split's share is right to about one patient,
    also for classes too small for a stratified draw.
    """
    share = np.array([fractions[name] for name in SPLITS])
    given = np.zeros(len(SPLITS), dtype=np.int64)
    allotted = np.empty(len(order), dtype=np.int64)
    for count, patient in enumerate(order, start=1):
        choice = int(np.argmax(np.where(share > 0, share * count - given, -np.inf)))
        allotted[patient] = choice
        given[choice] += 1
    if len(order) >= SMALLEST:
        for empty in np.flatnonzero((share > 0) & (given == 0)):
            largest = int(given.argmax())
            allotted[next(patient for patient in order[::-1] if allotted[patient] == largest)] = empty
            given[largest] -= 1
            given[empty] += 1
    return np.array(SPLITS)[allotted]


def class_balanced_splits(labels: np.ndarray, test: float, validation: float, seed: int) -> np.ndarray:
    """The local test set of the FedKPer study: roughly the same number of cases of every class, not proportional.

    Budget ``b = int(test * n)``; each class present gives ``b // classes`` cases, a class too small for that
    ``int(test * its size)``; if nothing came out, a random ``int(test * n)`` (at least one). Validation is our
    addition: ``int(validation * n)`` random cases of the rest.
    """
    n = len(labels)
    rng = np.random.default_rng(derive_seed(seed, "splits", "class_balanced"))
    splits = np.full(n, "train", dtype="<U10")
    present = np.unique(labels)
    budget = int(test * n)
    each = budget // max(len(present), 1)
    for label in present:
        members = np.flatnonzero(labels == label)
        size = each if len(members) >= each else int(test * len(members))
        splits[rng.permutation(members)[:size]] = "test"
    if test > 0 and n > 1 and not (splits == "test").any():
        splits[rng.permutation(n)[: max(budget, 1)]] = "test"
    rest = rng.permutation(np.flatnonzero(splits == "train"))
    splits[rest[: int(validation * n)]] = "validation"
    return splits


def sklearn_splits(labels: np.ndarray, spec: SplitSpec) -> np.ndarray:
    """What scikit-learn's ``train_test_split`` gives for single cases in their order, with the specification's seed.

    Stratified by label where every class has at least three cases. A validation part is split from the training part in
    the same way.

    Raises:
        DataError: there are too few cases for the parts.
    """
    from sklearn.model_selection import train_test_split

    def halves(cases: np.ndarray, first: float, second: float) -> list[np.ndarray]:
        counts = np.unique(labels[cases], return_counts=True)[1]
        stratify = labels[cases] if len(counts) > 1 and counts.min() > 2 else None
        sizes = {"train_size": first, "test_size": second, "random_state": spec.seed}
        try:
            return list(train_test_split(cases, shuffle=True, stratify=stratify, **sizes))
        except ValueError as error:
            raise DataError(f"splits.scheme train_test_split of {len(cases)} case(s): {error}") from error

    splits = np.full(len(labels), "train", dtype="<U10")
    cases = np.arange(len(labels))
    if spec.test > 0:
        train = 1 - spec.test if spec.train is None or spec.validation > 0 else spec.train
        cases, test = halves(cases, train, spec.test)
        splits[test] = "test"
    if spec.validation > 0:
        share = spec.validation / (1 - spec.test)
        splits[halves(cases, 1 - share, share)[1]] = "validation"
    return splits


def site_splits(
    cases: Cases, spec: CommonSpec, dataset_dir: Path, problems: Problems, save: bool, content: Sequence[str] = ()
) -> np.ndarray:
    """The split (N,) of each case: from the given or saved file if there is one, otherwise drawn (and saved).

    ``content``: the digests of :meth:`consilia.data.readers.base.Reader.content`, saved with the splits.
    """
    if spec.test_only:
        return np.full(len(cases), "test")
    if spec.official_splits:
        return np.asarray(cases.rows["part"].replace({"val": "validation"}), dtype=str)
    saved = splits_file(spec, dataset_dir)
    if spec.splits.file is not None or saved.exists():
        return read_splits(saved, cases, spec, problems, content)
    splits = draw_splits(cases, spec.splits)
    if save:
        table = pd.DataFrame({"case_id": cases.ids, "patient": cases.patients, "split": splits})
        if content:
            table["content"] = content
        write_bytes(saved, table.to_csv(index=False, lineterminator="\n").encode(), private=True)
    return splits


def limit_training(cases: Cases, splits: np.ndarray, spec: CommonSpec) -> np.ndarray:
    """The splits (N,) with all training cases UNUSED but ``train_cases`` of them (at least one); others stay.

    Patients in an order drawn by the splits' seed are taken whole while they fit; what then lacks is filled with some
    cases of one more, so that the count is right.

    Raises:
        DataError: there are fewer training cases than asked for.
    """
    wanted, train = spec.train_cases, np.flatnonzero(splits == "train")
    if wanted is None or spec.test_only:
        return splits
    count = wanted if isinstance(wanted, int) else max(1, round(wanted * len(train)))
    if count > len(train):
        raise DataError(f"train_cases: expected at most the {len(train)} case(s) of the training split, got {count}")
    owners = np.asarray(cases.patients, dtype=str)[train]
    rng = np.random.default_rng(derive_seed(spec.splits.seed, "train_cases"))
    groups = [train[owners == name] for name in rng.permutation(np.unique(owners))]
    chosen: list[np.ndarray] = []
    left = count
    for group in groups:
        if len(group) <= left:
            chosen.append(group)
            left -= len(group)
    if left:
        chosen.append(next(group for group in groups if not any(group is other for other in chosen))[:left])
    used = np.isin(np.arange(len(splits)), np.concatenate(chosen))
    return np.where((splits == "train") & ~used, UNUSED, splits)


def splits_file(spec: CommonSpec, dataset_dir: Path) -> Path:
    """The file that holds this dataset's splits: the one given in site.yaml, or the one Consilia keeps."""
    return spec.splits.file or dataset_dir / "splits.csv"


def read_splits(
    file: Path, cases: Cases, spec: CommonSpec, problems: Problems, content: Sequence[str] = ()
) -> np.ndarray:
    """The splits (N,) of the cases from a file. Rows of patients under exclude_patients are passed over.

    Raises:
        DataError: the file and the data do not hold the same cases, or cases of other patients or (where ids are only
            positions) of other values; says how many and what to do.
    """
    table = read_table(file)
    require_columns(file, list(table), ["case_id", "split"])
    if "patient" in table:
        table = table[~table["patient"].isin(spec.exclude_patients)]
    for row in table.loc[table.duplicated("case_id"), "row#"]:
        problems.add(f"{file}: row {row}: this case_id came before; each case has one split")
    for row, value in table.loc[~table["split"].isin(SPLITS), ["row#", "split"]].itertuples(index=False):
        problems.add(f"{file}: row {row}: split must be one of {', '.join(SPLITS)}, got {value!r}")
    found = dict(zip(table["case_id"], table["split"], strict=True))
    new, gone = set(cases.ids) - set(found), set(found) - set(cases.ids)
    if new or gone:
        raise DataError(
            f"{file}: {len(new)} case(s) of the data are not in this file and {len(gone)} case(s) of the file are not "
            "in the data. Put the data back as they were; or leave patients out with exclude_patients; or "
            f"{DRAW_ANEW}"
        )
    _refuse_others(file, table, cases, spec, content)
    splits = np.array([found[case] for case in cases.ids])
    _note_overlap(file, cases, splits, problems)
    return splits


def _refuse_others(file: Path, table: pd.DataFrame, cases: Cases, spec: CommonSpec, content: Sequence[str]) -> None:
    """The ids are the same; are the cases? A file written by hand may have neither column, and is then believed."""
    saved = table.drop_duplicates("case_id", keep="last").set_index("case_id").loc[list(cases.ids)]
    if content and "content" in saved:
        count = int((saved["content"].to_numpy() != np.asarray(content)).sum())
        if count:
            raise DataError(
                f"{file}: {count} of {len(cases)} case(s) hold other values or labels than when these splits were made "
                "(or site.yaml names other columns). Case ids are only positions in the data file here, so a training "
                "case may now pass for a test case. Put the data file back as it was, in its order; or give its cases "
                f"ids of their own where the format has them (key `case`) and {DRAW_ANEW}"
            )
    if spec.patient is not None and "patient" in saved:
        now = pd.Series(cases.patients, dtype=str).map(canonical).to_numpy()
        count = int((saved["patient"].map(canonical).to_numpy() != now).sum())
        if count:
            raise DataError(
                f"{file}: {count} of {len(cases)} case(s) belong to another patient in the data than in this file, so "
                "a training patient may now pass for a test patient. Put the data and the patient column named in "
                f"site.yaml back as they were; or correct the column `patient` of a file you gave; or {DRAW_ANEW}"
            )


def _note_overlap(file: Path, cases: Cases, splits: np.ndarray, problems: Problems) -> None:
    for patient in shared_patients(cases, splits):
        where = sorted({str(split) for name, split in zip(cases.patients, splits, strict=True) if name == patient})
        problems.add(f"{file}: patient {patient!r} is in {' and '.join(where)}; a patient belongs to one split")


def shared_patients(cases: Cases, splits: np.ndarray) -> list[str]:
    """Patients with cases in more than one split, sorted."""
    pairs = pd.DataFrame({"patient": cases.patients, "split": splits}).drop_duplicates()
    return sorted(pairs.loc[pairs.duplicated("patient"), "patient"].unique())
