"""The sites of a run: who takes part, who is asked in a round, and whose client state counts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from consilia.core.errors import DataError, RunFailed
from consilia.core.plain import plain
from consilia.data.moments import pooled_values
from consilia.federation.accepted import AcceptedRounds
from consilia.federation.config import RunConfig
from consilia.federation.enrolment import common_classes, common_columns, why_not
from consilia.federation.messages import Broadcast, PrepareReply, Request, RequestKind
from consilia.federation.recorder import Recorder
from consilia.federation.sampling import draws, sample
from consilia.methods.contract import State

log = logging.getLogger(__name__)


class Participants:
    """The sites of one run, as the record holds them.

    Args:
        config: the run.
        connected: names of the sites that are connected.
        recorder: the run's record; its list of sites is the run's.
    """

    def __init__(self, config: RunConfig, connected: Sequence[str], recorder: Recorder) -> None:
        self.config, self.recorder = config, recorder
        self.connected = sorted(connected)
        self.accepted = AcceptedRounds()
        self.absent: dict[str, str] = {}

    def enrol(self, replies: Mapping[str, PrepareReply], reasons: Mapping[str, str], *, resume: bool) -> None:
        """Note who takes part, and why the others do not.

        Args:
            replies: what connected sites say of themselves.
            reasons: why others have not replied.
            resume: the run goes on: only the sites that began it can take part.

        Raises:
            RunFailed: too few sites have training data, or they agree on no class list.
        """
        recorder, absent = self.recorder, dict(reasons)
        known = dict(recorder.sites) if resume else None
        if replies and not recorder.class_names:
            recorder.class_names = common_classes(replies)
        classes, columns = recorder.class_names, common_columns(replies)
        for site, reply in replies.items():
            reason = why_not(site, reply, self.config, classes=classes, known=known, columns=columns)
            if reason is not None:
                absent[site] = plain(reason, 300)
            elif known is None:
                recorder.add_site(site, reply)
        if self.config.preprocessing == "pooled" and known is None:
            recorder.preprocessing = _pooled(replies, recorder)
        absent |= {site: "it is not connected" for site in recorder.sites if site not in self.connected}
        self.absent = recorder.absent = dict(sorted(absent.items()))
        for site, reason in self.absent.items():
            log.error("site %s cannot take part: %s", site, reason)

    def require_enough(self) -> None:
        """Raise :class:`RunFailed` where fewer sites with training data take part than the run needs."""
        there, needed = len(self.trainers()), self.config.min_sites
        if there < needed:
            raise RunFailed(
                f"{there} site(s) with training data can take part, min_sites is {needed}. {listed(self.absent)}"
            )

    def present(self) -> list[str]:
        """Who takes part."""
        return [name for name in sorted(self.recorder.sites) if name not in self.absent]

    def all_trainers(self) -> list[str]:
        """The run's sites with training data, absent or not."""
        return [name for name, site in sorted(self.recorder.sites.items()) if not site.test_only]

    def trainers(self) -> list[str]:
        """Those of them that take part."""
        return [name for name in self.all_trainers() if name not in self.absent]

    def sample(self, round_number: int) -> list[str]:
        """Whom a round asks to train."""
        return sample(
            self.all_trainers(),
            self.absent,
            participation=self.config.participation,
            seed=self.config.seed,
            round_number=round_number,
        )

    def needed(self) -> int:
        """How many accepted updates a round needs."""
        return min(self.config.min_sites, draws(self.all_trainers(), self.config.participation))

    def requests(
        self, kind: RequestKind, targets: Sequence[str], tensors: State, *, of_best: bool = False, **options: Any
    ) -> list[Broadcast]:
        """One request for all targets whose client states are of the same rounds.

        Args:
            kind: of the request.
            targets: sites.
            tensors: what travels with it.
            of_best: the client states that count are those of the best global model, not of the newest.
            options: further fields of :class:`Request`.
        """
        groups: dict[tuple[int, int], list[str]] = {}
        for site in targets:
            last, best = self.accepted.of(site)
            groups.setdefault((best if of_best else last, best), []).append(site)
        options["preprocessing"] = self.recorder.preprocessing
        return [
            Broadcast(Request(kind=kind, client_round=counts, best_client_round=best, **options), sites, tensors)
            for (counts, best), sites in sorted(groups.items())
        ]


def _pooled(replies: Mapping[str, PrepareReply], recorder: Recorder) -> dict[str, list[float]]:
    """Mean and deviation over the training sites that take part, added up in the order of their names."""
    trainers = [name for name, site in sorted(recorder.sites.items()) if not site.test_only]
    sums = [own for name in trainers if (own := replies[name].moments) is not None]
    if not sums:
        raise RunFailed("preprocessing: pooled: no training site has sent sums of its values")
    try:
        return pooled_values(sums)
    except DataError as error:
        raise RunFailed(f"preprocessing: pooled: {error}") from error


def listed(reasons: Mapping[str, str]) -> str:
    """Sites and reasons in one line."""
    return "; ".join(f"{site}: {reason}" for site, reason in sorted(reasons.items()))
