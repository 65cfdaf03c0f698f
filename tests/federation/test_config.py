"""A run's configuration: defaults, overrides, errors that say what came."""

from __future__ import annotations

import pytest

from consilia.core.errors import CannotTrain, ConfigError
from consilia.federation.config import run_config
from tests.federation.support import small

BASE = {
    "method": "fedkper",
    "model": {"class": "consilia.models.mlp.MLP", "args": {"in_features": 3, "num_classes": 2}},
}


def test_defaults_are_the_released_method() -> None:
    config = run_config(BASE)
    assert config.label == "fedkper"
    assert (config.method.max_kd_weight, config.method.temperature, config.method.kd_weight_mode) == (
        10.0,
        1.0,
        "batch",
    )
    assert (config.training.local_epochs, config.training.learning_rate, config.training.momentum) == (5, 0.01, 0.9)
    assert (config.training.weight_decay, config.training.learning_rate_decay) == (1e-5, 0.99)
    assert config.training.gradient_clip is None


def test_class_weights_are_refused_for_a_segmentation() -> None:
    with pytest.raises(
        ConfigError, match=r"training.class_weights are for a classification, the run is a segmentation"
    ):
        run_config({**BASE, "method": "fedavg", "task": "segmentation"}, ["training.class_weights=balanced"])


@pytest.mark.parametrize("method", ["scaffold", "fedcurv"])
def test_a_robust_rule_is_refused_where_what_is_sent_adds_up(method: str) -> None:
    """By the median SCAFFOLD's c is off the mean of the sites' c_k by two thirds of its norm after eight rounds."""
    plain = {"momentum": 0.0, "weight_decay": 0.0}
    for rule in ("median", "trimmed_mean"):
        with pytest.raises(CannotTrain, match=rf"{method}: .*, which the {rule} does not do: set robust\.rule=mean"):
            small(method, training=plain, robust={"rule": rule})
    assert small(method, training=plain, robust={"clip_norm": 1.0}).robust.clip_norm == 1.0
    assert small("fedavg", robust={"rule": "median"}).robust.rule == "median"


def test_a_job_carries_it_and_gives_it_back() -> None:
    config = run_config(
        BASE, ["training.batch_size=12", "method.kd_weight_mode=sample", "rounds=3", "model.args.hidden=[4, 4]"]
    )
    again = run_config(config.to_json())
    assert again == config
    assert again.run_id == config.run_id
    assert (again.training.batch_size, again.method.kd_weight_mode, again.model.args["hidden"]) == (
        12,
        "sample",
        [4, 4],
    )


def test_no_key_of_a_job_looks_like_a_component_to_nvflare() -> None:
    def keys(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value).union(*(keys(item) for item in value.values())) if value else set()
        return set()

    assert not keys(run_config(BASE).to_json()) & {"path", "class_path", "name"}


def test_every_value_is_part_of_the_runs_identity() -> None:
    ids = {
        run_config(BASE, [item]).run_id
        for item in ("seed=0", "seed=1", "rounds=3", "method.max_kd_weight=1", "training.momentum=0", "label=x")
    }
    assert len(ids) == 6


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rounds=0", r"rounds: .*greater than or equal to 1.*got 0"),
        ("method.kd_weight_mode=case", r"method.kd_weight_mode: .*'batch', 'sample' or 'client'.*got 'case'"),
        ("method.max_kd_weight=-2", r"method.max_kd_weight: .*got -2"),
        ("training.learning_rate=.nan", r"training.learning_rate"),
        ("trainin.batch_size=3", r"unknown key; did you mean 'training.batch_size'"),
        ("participation=0", r"participation"),
        ('dataset="a\\nb"', r"dataset: expected no control characters"),
        ('test_only_sites=["a\\u202eb"]', r"test_only_sites.0: expected no control characters"),
        ("method=fedfoo", r"no method 'fedfoo' is installed; there are .*fedavg, .*fedprox"),
        ("batch", r"--set takes key=value"),
        ("seed.x=1", r"'seed' is a single value"),
        ("model.class=os.system()", r"model.class"),
        ("rounds={", r"not YAML"),
        ("label=../../evil", r"label"),
        ("patience=3", r"patience counts evaluations"),
    ],
)
def test_bad_values_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_config({**BASE, "seed": 0, "evaluate_every": 0}, [override])


def test_a_wrong_value_is_said_to_be_of_the_override_that_gives_it() -> None:
    with pytest.raises(ConfigError, match=r"^--set training.learning_rate=abc: training.learning_rate: "):
        run_config(BASE, ["rounds=3", "training.learning_rate=abc"])
    with pytest.raises(ConfigError, match=r"^--set method.mu=-1: method.*mu: "):
        run_config(BASE, ["method=fedprox", "method.mu=-1"])
    with pytest.raises(ConfigError, match=r"^configuration: 2 values do not fit"):
        run_config(BASE, ["training.learning_rate=abc", "training.batch_size=0"])


def test_switching_method_drops_the_other_methods_options() -> None:
    assert run_config(BASE, ["method.method=fedprox", "method.mu=0.5"]).method.mu == 0.5


def test_small_numbers_are_numbers() -> None:
    # YAML 1.1 takes 1e-5 for text.
    assert run_config(BASE, ["model.args.eps=1e-5"]).model.args["eps"] == 1e-5
