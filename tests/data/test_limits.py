"""The section ``limits`` of site.yaml: safe defaults, units, and keys that promise what is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from consilia.core.errors import ConfigError
from consilia.data.limits import RESEARCH_LIMITS, SiteLimits
from consilia.data.site import load_site_config
from tests.data.test_yaml_and_site import GOOD, write


def test_a_site_without_the_section_has_the_safe_defaults(tmp_path: Path) -> None:
    limits = load_site_config(write(tmp_path, GOOD)).limits
    assert limits == SiteLimits()
    assert (limits.max_rounds, limits.max_learning_rate, limits.min_cases_per_metric) == (200, 1.0, 10)
    assert limits.max_model_bytes == 2_000_000_000


def test_sizes_have_units_and_null_is_no_limit(tmp_path: Path) -> None:
    text = GOOD + "limits: {max_model_bytes: 500 MB, max_disk: 1000, max_memory: 4 GiB, max_rounds: null}\n"
    limits = load_site_config(write(tmp_path, text)).limits
    assert (limits.max_model_bytes, limits.max_disk, limits.max_memory) == (500_000_000, 1000, 4 * 2**30)
    assert limits.max_rounds is None
    assert limits.max_hours == 24


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ("{privacy: {epsilon: 1}}", "privacy: differential privacy is not yet built"),
        ("{min_cohort: 3}", "min_cohort: secure aggregation, .* is not yet built"),
        ("{max_round: 3}", "limits.max_round: unknown key; did you mean 'max_rounds'"),
        ("", "limits: expected keys such as max_rounds: 200; without the section the defaults apply; got None"),
        ("[{max_rounds: 3}]", "limits: expected keys such as max_rounds: 200"),
        ("{max_model_bytes: big}", "limits.max_model_bytes: expected bytes, or a number with a point and one of B, kB"),
        ("{max_model_bytes: 500 MByte}", "limits.max_model_bytes: expected bytes, or .*; got '500 MByte'"),
        ("{max_model_bytes: '2,5 GB'}", "limits.max_model_bytes: expected bytes, or .*; got '2,5 GB'"),
        ("{max_disk: 1.5.2 GB}", "limits.max_disk: expected bytes, or .*; got '1.5.2 GB'"),
        ("{max_disk: 0}", "limits.max_disk: Input should be greater than 0"),
        ("{max_batch_fraction: 2}", "limits.max_batch_fraction: Input should be less than or equal to 1"),
        ("{round_metrics: 0}", "limits.round_metrics: Input should be greater than or equal to 2"),
        ("{max_learning_rate: .inf}", "limits.max_learning_rate: Input should be a finite number"),
    ],
)
def test_what_is_no_limit_is_refused(tmp_path: Path, limits: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_site_config(write(tmp_path, f"{GOOD}limits: {limits}\n"))


def test_a_study_states_that_its_sites_have_no_limits(wisconsin: dict[str, Path]) -> None:
    written = yaml.safe_load(wisconsin["hospital-1"].read_text())["limits"]
    assert written == dict.fromkeys(SiteLimits.model_fields)
    assert load_site_config(wisconsin["hospital-1"]).limits == RESEARCH_LIMITS
