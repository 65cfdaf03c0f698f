"""How far honest updates move the model: the measure behind the default of ``max_update_norm``.

    python -m benchmarks.update_norms STUDY ... --rounds 5 --out norms.json

Runs every method of the studies in this process, without evaluations and personal models, and prints for each the
norm of the global state (the smallest that travelled), the largest norm of an update's change, and the largest
ratio of the two within a round.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from benchmarks.common import machine
from consilia.aggregation.norm import FLOOR, MULTIPLE, change_norm, is_statistic, state_norm
from consilia.core.determinism import single_threaded
from consilia.core.files import write_json
from consilia.federation.config import RunConfig
from consilia.federation.inprocess import open_run
from consilia.federation.messages import Broadcast
from consilia.federation.server_settings import own_server
from consilia.study.study import load_study, study_config, study_sites


@dataclass
class Norms:
    """Of one run: how many updates there were, the smallest norm of a global state, the largest norm of a change, and
    the largest ratio of the two; ``used``: the largest share of what the default of ``max_update_norm`` allows."""

    study: str
    method: str
    elements: int = 0
    updates: int = 0
    state: float = float("inf")
    change: float = 0.0
    ratio: float = 0.0
    used: float = 0.0

    def add(self, sent: Mapping[str, Tensor], received: Mapping[str, Tensor]) -> None:
        """Note an update and the state that it started from."""
        state, change = (
            state_norm(received),
            change_norm({name: sent[name] for name in sent if not is_statistic(name)}, received),
        )
        self.updates += 1
        self.elements = sum(tensor.numel() for tensor in received.values())
        self.state, self.change = min(self.state, state), max(self.change, change)
        self.ratio = max(self.ratio, change / state)
        self.used = max(self.used, change / max(FLOOR, MULTIPLE * state))


def measure(study: str, label: str, config: RunConfig, site_files: Mapping[str, Path], folder: Path) -> Norms:
    """Run one configuration and look at every update."""
    norms = Norms(study, label)
    with single_threaded():
        sites, coordinator = open_run(config, site_files, folder, server=own_server(config, site_files))

        def deliver(broadcasts: Sequence[Broadcast]) -> None:
            for item in broadcasts:
                for name in [] if item.request.final else item.targets:
                    reply = sites[name].answer(item.request, item.tensors)
                    if item.request.kind == "train" and item.tensors is not None:
                        state = {key: item.tensors[key] for key in coordinator.state}
                        norms.add(reply.tensors, state)
                    coordinator.receive(name, reply)

        coordinator.run(deliver)
    return norms


def row(norms: Norms) -> str:
    """A row of Markdown."""
    values = [f"{value:.2g}" for value in (norms.state, norms.change, norms.ratio, norms.used)]
    return "| " + " | ".join([norms.study, norms.method, str(norms.elements), str(norms.updates), *values]) + " |"


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", metavar="STUDY", help="an embedded study, or a study file")
    parser.add_argument("--rounds", type=int, help="default: the study's")
    parser.add_argument("--methods", nargs="*", help="default: all of the study")
    parser.add_argument("--set", action="append", default=[], help="another key=value, the same for all runs")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    begun, found = machine(), []
    print("| study | method | elements | updates | norm of the state | largest change | ratio | of the default |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.studies:
        study = load_study(name)
        with tempfile.TemporaryDirectory(prefix="consilia-norms-") as scratch:
            sites = study_sites(study, Path(scratch) / "sites")
            for label in options.methods or study.methods:
                rounds = [f"rounds={options.rounds}"] if options.rounds else []
                overrides = [*rounds, "evaluate_every=0", "max_update_norm=null", *options.set]
                config = study_config(study, label, study.seeds[0], sites, overrides)
                found.append(measure(Path(name).stem, label, config, sites, Path(scratch) / label))
                print(row(found[-1]), flush=True)
    if options.out is not None:
        write_json(options.out, {"machine": begun, "norms": [asdict(item) for item in found]})


if __name__ == "__main__":
    main()
