"""The weighted mean against NumPy, and its promises: order, memory, dtypes, the rule for integers."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import consilia.aggregation.mean as averaging
from consilia.aggregation.mean import CHUNK_ELEMENTS, Rule, mean, normalised, partial_mean, weighted_mean
from consilia.aggregation.robust import trimmed_mean
from consilia.aggregation.store import UpdateSpool
from consilia.core.determinism import state_digest
from consilia.core.errors import AggregationError, ConfigError


def updates(sites: int = 3, dtype: torch.dtype = torch.float32) -> dict[str, dict[str, torch.Tensor]]:
    order = torch.Generator().manual_seed(0)
    shapes = {"a": (4, 5), "b": (), "c": (0,), "long": (CHUNK_ELEMENTS + 7,)}
    return {
        f"site-{k}": {name: torch.randn(shape, generator=order).to(dtype) for name, shape in shapes.items()}
        for k in range(sites)
    }


WEIGHTS = {"site-0": 1.0, "site-1": 2.5, "site-2": 0.25}


def test_against_numpy() -> None:
    data = updates()
    mean = weighted_mean(data, WEIGHTS)
    for name in data["site-0"]:
        expected = np.average(
            np.stack([data[site][name].double().numpy() for site in WEIGHTS]), axis=0, weights=list(WEIGHTS.values())
        )
        assert mean[name].dtype == torch.float32
        assert mean[name].shape == data["site-0"][name].shape
        # Half a unit in the last place of float32, relative to float64's result.
        np.testing.assert_allclose(mean[name].numpy(), expected, rtol=6e-8, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_floats_are_summed_in_float64(dtype: torch.dtype) -> None:
    # (2056 + 2048 + 2048 + 2048) / 4 = 2050; above 2048 float16 has even numbers only and bfloat16 steps of 16.
    data = {f"s{k}": {"w": torch.tensor([2048.0 if k else 2056.0]).to(dtype)} for k in range(4)}
    mean = weighted_mean(data, dict.fromkeys(data, 1.0))
    assert mean["w"].dtype == dtype
    assert float(mean["w"]) == float(torch.tensor(2050.0).to(dtype))


def test_integers_take_the_mean_rounded_half_to_even() -> None:
    data = {"a": {"n": torch.tensor([1, 2, 10])}, "b": {"n": torch.tensor([2, 3, 20])}}
    assert weighted_mean(data, {"a": 1, "b": 1})["n"].tolist() == [2, 2, 15]
    assert weighted_mean(data, {"a": 1, "b": 3})["n"].tolist() == [2, 3, 18]  # 1.75, 2.75, 17.5
    flags = {"a": {"m": torch.tensor([True, False])}, "b": {"m": torch.tensor([True, True])}}
    assert weighted_mean(flags, {"a": 3, "b": 1})["m"].tolist() == [True, False]


def test_the_same_bits_in_any_order_and_from_disk(tmp_path: Path) -> None:
    data = updates()
    digests = set()
    for place, order in enumerate(itertools.permutations(data)):
        spool = UpdateSpool(tmp_path / str(place))
        for site in order:
            spool.add(site, data[site])
        digests.add(state_digest(weighted_mean(spool, {site: WEIGHTS[site] for site in reversed(order)})))
        digests.add(state_digest(weighted_mean({site: data[site] for site in order}, WEIGHTS)))
    assert len(digests) == 1


@pytest.mark.parametrize("rule", [mean, trimmed_mean(0.4)], ids=["mean", "trimmed"])
def test_the_same_bits_with_any_number_of_threads(rule: Rule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, spool = updates(), UpdateSpool(tmp_path)
    for site, update in data.items():
        spool.add(site, update)
    monkeypatch.setattr(averaging, "cores", lambda: 8)
    names = set()
    digests = set()
    for threads, smallest, files in ((1, 1, 64), (4, 1, 64), (4, 1, 0), (4, 1 << 20, 64)):
        monkeypatch.setattr(averaging, "THREADS", threads)
        monkeypatch.setattr(averaging, "THREADED_ELEMENTS", smallest)
        monkeypatch.setattr(averaging, "MEAN_ELEMENTS", 1 << 10)
        monkeypatch.setattr(averaging, "OPEN_FILES", files)

        def noted(parts: Iterator[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
            names.add(threading.current_thread().name.split("-")[0])
            return rule(parts, shares)

        for given in (data, spool):
            digests.add(state_digest(weighted_mean(given, WEIGHTS, rule)))
            weighted_mean(given, WEIGHTS, noted)
            before = {name: torch.zeros_like(value) for name, value in data["site-0"].items()}
            digests.add(state_digest(partial_mean(given, dict.fromkeys(before, WEIGHTS), before, rule)))
    assert len(digests) == 1
    # Threads were there, and the calling one.
    assert names == {"MainThread", "ThreadPoolExecutor"}


def test_what_goes_wrong_in_a_thread_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(averaging, "cores", lambda: 8)
    monkeypatch.setattr(averaging, "THREADED_ELEMENTS", 1)
    spool = UpdateSpool(tmp_path)
    for site, update in updates().items():
        spool.add(site, update)
    with spool["site-1"].path.open("r+b") as file:
        file.truncate(spool["site-1"].path.stat().st_size - 8)
    with pytest.raises(AggregationError, match="ends inside tensor"):
        weighted_mean(spool, WEIGHTS)


def test_only_the_ratio_of_weights_counts() -> None:
    data = updates()
    scaled = {site: 8 * weight for site, weight in WEIGHTS.items()}
    assert state_digest(weighted_mean(data, WEIGHTS)) == state_digest(weighted_mean(data, scaled))


def test_identical_updates_come_back_unchanged() -> None:
    one = updates(1)["site-0"]
    mean = weighted_mean({"a": one, "b": one, "c": one}, {"a": 0.1, "b": 0.7, "c": 0.2})
    assert state_digest(mean) == state_digest(one)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "no update"),
        ({"site-0": 1.0}, "updates came from"),
        ({"site-0": 0, "site-1": 0, "site-2": 0}, "sum to zero"),
        ({"site-0": float("nan"), "site-1": 1, "site-2": 1}, "weight of site 'site-0' is nan"),
        ({"site-0": -1, "site-1": 1, "site-2": 1}, "weight of site 'site-0' is -1"),
    ],
)
def test_bad_weights(weights: dict[str, float], message: str) -> None:
    with pytest.raises(AggregationError, match=message):
        weighted_mean(updates(), weights)


def test_updates_that_do_not_match() -> None:
    with pytest.raises(AggregationError, match="differ in tensor 'b'"):
        weighted_mean({"x": {"a": torch.ones(1)}, "y": {"a": torch.ones(1), "b": torch.ones(1)}}, {"x": 1, "y": 1})
    with pytest.raises(AggregationError, match=r"tensor 'a' of site 'y' is torch.float32 \(1,\)"):
        weighted_mean({"x": {"a": torch.ones(3)}, "y": {"a": torch.ones(1)}}, {"x": 1, "y": 1})


def test_shares_sum_to_one() -> None:
    shares = normalised({"b": 3.0, "a": 1.0})
    assert shares == {"a": 0.25, "b": 0.75}
    assert list(shares) == ["a", "b"]


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool],
)
def test_spool_gives_back_what_it_took(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "x": torch.arange(12).reshape(3, 4).to(dtype),
        "y": torch.tensor(1).to(dtype),
        "z": torch.zeros(0, dtype=dtype),
    }
    spool = UpdateSpool(tmp_path)
    spool.add("site", tensors)
    for name, tensor in tensors.items():
        assert torch.equal(spool["site"][name], tensor)
        assert spool["site"][name].dtype == dtype
    assert torch.equal(spool["site"].chunk("x", 5, 9), tensors["x"].reshape(-1)[5:9])


def test_spool_takes_one_answer_per_site_and_cleans_up(tmp_path: Path) -> None:
    spool = UpdateSpool(tmp_path)
    spool.add("../../etc/passwd", {"x": torch.ones(2)})
    with pytest.raises(ConfigError, match="already answered"):
        spool.add("../../etc/passwd", {"x": torch.ones(2)})
    assert [path.parent for path in tmp_path.rglob("*.safetensors")] == [tmp_path]
    spool.clear()
    assert len(spool) == 0
    # A later, shorter update leaves nothing of the earlier one behind.
    spool.add("a", {"y": torch.ones(1)})
    assert list(spool["a"]) == ["y"]
    assert len(list(tmp_path.iterdir())) == 1
    assert spool["a"].path.stat().st_size < 200
    spool.remove()
    assert not tmp_path.exists()


def test_a_truncated_spool_file_is_noticed(tmp_path: Path) -> None:
    spool = UpdateSpool(tmp_path)
    spool.add("site", {"x": torch.ones(100)})
    path = spool["site"].path
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(AggregationError, match="ends inside tensor 'x'"):
        weighted_mean(spool, {"site": 1.0})
