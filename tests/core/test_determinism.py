"""Seeds and digests."""

from __future__ import annotations

import subprocess
import sys

import torch

from consilia.core.determinism import derive_seed, generator, seeded, single_threaded, state_digest, torch_threads


def test_seeds_differ_by_run_purpose_site_and_round() -> None:
    seeds = {
        derive_seed(run, purpose, site, number)
        for run in range(3)
        for purpose in ("batches", "sample")
        for site in ("a", "b")
        for number in range(5)
    }
    assert len(seeds) == 3 * 2 * 2 * 5
    assert derive_seed(1, "a", "bc") != derive_seed(1, "ab", "c")
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_is_the_same_in_another_process() -> None:
    code = "from consilia.core.determinism import derive_seed; print(derive_seed(7, 'batches', 'site', 3))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == derive_seed(7, "batches", "site", 3)


def test_seeded_is_local() -> None:
    torch.manual_seed(123)
    expected = torch.rand(2)
    torch.manual_seed(123)
    with seeded(5, "x"):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with seeded(5, "x"):
        assert torch.equal(torch.rand(2), inside)
    assert torch.equal(torch.rand(3, generator=generator(5, "y")), torch.rand(3, generator=generator(5, "y")))


def test_single_threaded_restores() -> None:
    torch.set_num_threads(2)
    with single_threaded():
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == 2
    assert not torch.are_deterministic_algorithms_enabled()


def test_torch_threads_restores() -> None:
    torch.set_num_threads(1)
    with torch_threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1


def test_single_threaded_does_not_load_the_compiler() -> None:
    check = "import sys; from consilia.core.determinism import single_threaded\nwith single_threaded(): pass\n"
    check += "print({'torch._dynamo', 'torch._inductor'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout == "set()\n"


def test_digest_sees_names_shapes_dtypes_and_bits_but_not_order() -> None:
    base = {"a": torch.ones(2, 3), "b": torch.zeros(1)}
    digest = state_digest(base)
    assert digest == state_digest({"b": base["b"].clone(), "a": base["a"].clone()})
    others = [
        {"a": torch.ones(3, 2), "b": torch.zeros(1)},
        {"a": torch.ones(2, 3).double(), "b": torch.zeros(1)},
        {"a": torch.ones(2, 3), "c": torch.zeros(1)},
        {"a": torch.ones(2, 3), "b": -torch.zeros(1)},
        {"a": torch.ones(2, 3).bfloat16(), "b": torch.zeros(1)},
    ]
    assert len({digest, *(state_digest(other) for other in others)}) == 6
    assert state_digest({"a": torch.arange(6.0).reshape(2, 3).t()}) == state_digest(
        {"a": torch.arange(6.0).reshape(2, 3).t().contiguous()}
    )
