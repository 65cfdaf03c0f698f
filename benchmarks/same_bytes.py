"""Whether a change of the code has left every model as it was, bit by bit.

    python benchmarks/same_bytes.py --record before.json      # in the checkout before the change, about 2 minutes
    python benchmarks/same_bytes.py --against before.json     # in the checkout after it: exits with 1 on a difference
    python benchmarks/same_bytes.py --against before.json --only fedavg --only resumed

Short runs of the in-process engine, one thread each, by the command line of the checkout that this file lies in: where
a key or an option gets another name, only ``CASES`` changes. Of every run the file has the digests
(:func:`consilia.core.determinism.state_digest`) of the last and the best global model, of every site's personal models
and of FedKIM's injected parts: ``{case: {model: digest}}``. Digests of unlike machines do not compare, so such a file
is never committed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import load_file

from consilia.core.determinism import state_digest

Digests = dict[str, dict[str, str]]
"""By case, then by model, e.g. ``global-last`` or ``hospital-1/personal-best``."""

FEDKPER_SAMPLED = ("fedkper", "--rounds", "10", "--set", "participation=0.5", "--set", "training.local_epochs=6")
CASES: dict[str, tuple[str, ...]] = {
    "fedavg": ("fedavg", "--rounds", "5"),
    "fedprox": ("fedprox", "--rounds", "5"),
    "fedkper": ("fedkper", "--rounds", "5"),
    "fedkper-sampled": FEDKPER_SAMPLED,
    "fedkper-resumed": FEDKPER_SAMPLED,
    "trimmed-mean": ("fedavg", "--rounds", "5", "--set", "robust.rule=trimmed_mean", "--set", "robust.trim=0.25"),
    "float16": ("fedkper", "--rounds", "5", "--set", "exchange_dtype=float16"),
    "fedgpl-classification": (
        *("fedgpl", "--study", "fedgpl-classification", "--rounds", "2"),
        *("--set", "training.local_epochs=1"),
    ),
    "fedgpl-segmentation": (
        *("fedgpl", "--study", "fedgpl-segmentation", "--rounds", "2"),
        *("--set", "training.local_epochs=1"),
    ),
    "fedkim": (
        *("fedkim", "--study", "fedkim", "--rounds", "2", "--set", "training.local_epochs=1"),
        *(
            "--set",
            "method.injection.cases=24",
            "--set",
            "method.evaluation.test_cases=8",
            "--set",
            "method.evaluation.few_shot=[]",
        ),
    ),
}
"""The arguments of ``consilia run``, by case."""

RESUMED, UNBROKEN = "fedkper-resumed", "fedkper-sampled"
CHECKPOINT = Path("checkpoint") / "checkpoint.json"
CHECKPOINTS = 3
"""The resumed run is killed when its checkpoint has been seen so many times, each time another one."""


def run_case(name: str, folder: Path) -> dict[str, str]:
    """Run one case in ``folder``, a new one, and return the digest of each of its models.

    Raises:
        SystemExit: the command failed, or the run that is to be resumed was over too soon.
    """
    out = folder / name
    command = [sys.executable, "-m", "consilia.cli", "run", *CASES[name], "--engine", "inprocess", "--out", str(out)]
    if name == RESUMED:
        kill_after_checkpoints(command, folder, out)
    log_file = folder / f"{name}.log"
    with log_file.open("wb") as log:
        status = start(command, folder, log.fileno()).wait()
    if status != 0:
        output = log_file.read_text(errors="replace")[-3000:]
        raise SystemExit(f"{name}: {' '.join(command)} ended with {status}:\n{output}")
    return model_digests(out)


def start(command: Sequence[str], folder: Path, log: int) -> subprocess.Popen[bytes]:
    """The command, with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)


def kill_after_checkpoints(command: Sequence[str], folder: Path, out: Path) -> None:
    """Start the command and kill it in the middle of its rounds."""
    process = start(command, folder, subprocess.DEVNULL)
    seen: set[int] = set()
    while process.poll() is None and len(seen) < CHECKPOINTS:
        if (out / CHECKPOINT).exists():
            seen.add((out / CHECKPOINT).stat().st_mtime_ns)
        time.sleep(0.01)
    process.kill()
    process.wait()
    if len(seen) < CHECKPOINTS or (out / "global-last.safetensors").exists():
        raise SystemExit(f"{out.name}: the run was not interrupted; {len(seen)} checkpoint(s) were seen in {out}")


def model_digests(out: Path) -> dict[str, str]:
    """The digest of each model that a finished run has left in its folder, by name.

    Raises:
        SystemExit: there is no global model.
    """
    found = {path.stem: path for path in out.glob("global-*.safetensors")}
    for path in (out / "sites").rglob("personal-*.safetensors"):
        # The copy of a round's update is the global model's to vouch for; what a site keeps are these two.
        if path.stem in ("personal-last", "personal-best"):
            found[f"{path.relative_to(out / 'sites').parts[0]}/{path.stem}"] = path
    found |= {f"injected/{path.stem}": path for path in (out / "injected").glob("*.safetensors")}
    if "global-last" not in found:
        raise SystemExit(f"{out}: no global-last.safetensors: has the run changed what it leaves?")
    return {name: state_digest(load_file(path)) for name, path in sorted(found.items())}


def differences(before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> list[str]:
    """One line for each model of the cases in ``now`` that is not the same in both; a case of one alone is one line."""
    lines = []
    for case, models in now.items():
        if case not in before:
            lines.append(f"{case}: not in the record")
            continue
        for model in sorted(before[case].keys() | models.keys()):
            old, new = before[case].get(model, "no such model"), models.get(model, "no such model")
            if old != new:
                lines.append(f"{case}: {model}: {old[:16]} before, {new[:16]} now")
    return lines


def resumed_differs(now: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Whether the resumed run ended in other models than the same run unbroken, where both have run."""
    if RESUMED not in now or UNBROKEN not in now:
        return []
    return [f"unbroken and resumed: {line}" for line in differences({RESUMED: now[UNBROKEN]}, {RESUMED: now[RESUMED]})]


def collect(names: Sequence[str]) -> Digests:
    """Run the cases one after the other, in a temporary folder."""
    digests: Digests = {}
    with tempfile.TemporaryDirectory(prefix="consilia-bytes-") as scratch:
        for name in names:
            started = time.perf_counter()
            digests[name] = run_case(name, Path(scratch))
            seconds = time.perf_counter() - started
            print(f"{name}: {len(digests[name])} models in {seconds:.0f} s", flush=True)
    return digests


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the digests there")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with what --record wrote")
    parser.add_argument("--only", action="append", choices=list(CASES), metavar="CASE", help=", ".join(CASES))
    options = parser.parse_args(arguments)
    if options.against and not options.against.is_file():
        parser.error(
            f"--against {options.against}: no such file; write it with --record in the checkout before the change"
        )
    before = json.loads(options.against.read_text()) if options.against else None
    digests = collect(options.only or list(CASES))
    if options.record:
        options.record.write_text(json.dumps(digests, indent=2) + "\n")
    elif before is None:
        print(json.dumps(digests, indent=2))
    found = resumed_differs(digests)
    if before is not None:
        found += differences(before, digests)
        if not options.only:
            found += [f"{case}: in the record, but no case here" for case in before if case not in digests]
    for line in found:
        print(line)
    if found:
        raise SystemExit(1)
    if before is not None:
        print(f"All {sum(map(len, digests.values()))} models are the same.")


if __name__ == "__main__":
    main()
