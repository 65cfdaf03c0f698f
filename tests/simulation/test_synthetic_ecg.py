"""Synthetic ECGs: Einthoven's equations, the heart rate in the R peaks, records as wfdb writes them, a fair task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.signal import butter, filtfilt, find_peaks
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from consilia.core.errors import ConfigError
from consilia.simulation.synthetic.ecg import FAST, FREQUENCY, LEADS, Ecgs, draw_ecgs, write_record


@pytest.fixture(scope="module")
def drawn() -> Ecgs:
    return draw_ecgs(240, seed=1)


def test_shapes_and_bytes(drawn: Ecgs) -> None:
    assert drawn.signals.shape == (240, 12, 1000)
    assert (drawn.signals.dtype, drawn.labels.dtype) == (np.float32, np.int64)
    assert len(drawn.findings) == len(drawn.rates) == 240
    again = draw_ecgs(5, seed=1)  # case i does not depend on how many are drawn
    assert again.signals.tobytes() == drawn.signals[:5].tobytes()
    assert draw_ecgs(5, seed=2).signals.tobytes() != again.signals.tobytes()


def test_another_recorder_sees_the_same_hearts_otherwise(drawn: Ecgs) -> None:
    there = draw_ecgs(5, seed=1, recorder=3)
    assert (there.labels == drawn.labels[:5]).all()
    assert (there.rates == drawn.rates[:5]).all()
    for one, other in zip(there.signals, drawn.signals, strict=False):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9
        assert np.abs(one - other).max() > 0.01


def test_the_limb_leads_obey_einthoven_and_goldberger(drawn: Ecgs) -> None:
    lead = dict(zip(LEADS, np.moveaxis(drawn.signals, 1, 0), strict=True))
    np.testing.assert_allclose(lead["I"] + lead["III"], lead["II"], atol=1e-6)
    np.testing.assert_allclose(lead["aVR"] + lead["aVL"] + lead["aVF"], 0, atol=1e-6)
    np.testing.assert_allclose(lead["aVF"], (lead["II"] + lead["III"]) / 2, atol=1e-6)
    assert np.abs(drawn.signals).max() < 5  # mV, as electrocardiographs record them


def test_a_healthy_qrs_points_down_in_v1_and_up_in_v5(drawn: Ecgs) -> None:
    healthy = drawn.signals[(drawn.labels == 0) & (np.array(drawn.findings) != "wide-qrs")]
    v1, v5 = (healthy[:, LEADS.index(name)] for name in ("V1", "V5"))
    assert (-v1.min(axis=1) > v1.max(axis=1)).mean() > 0.8
    assert (v5.max(axis=1) > -v5.min(axis=1)).mean() > 0.95


def test_the_heart_rate_is_in_the_r_peaks(drawn: Ecgs) -> None:
    b, a = butter(2, [5, 20], "band", fs=FREQUENCY)
    errors = []
    for signal, rate, finding in zip(drawn.signals, drawn.rates, drawn.findings, strict=True):
        if finding == "irregular":  # whose ten seconds may hold few long intervals
            continue
        energy = np.sqrt((filtfilt(b, a, signal, axis=1) ** 2).sum(axis=0))
        peaks, _ = find_peaks(energy, height=0.45 * np.quantile(energy, 0.995), distance=30)
        errors.append(60 * FREQUENCY / np.diff(peaks).mean() / rate - 1)
    assert len(errors) > 150
    # Intervals vary by 1 to 5 % and a recording has eight or more of them.
    assert np.quantile(np.abs(errors), 0.95) < 0.03
    assert np.abs(errors).max() < 0.08


def test_the_rate_has_no_part_in_the_label(drawn: Ecgs) -> None:
    assert abs(roc_auc_score(drawn.labels, drawn.rates) - 0.5) < 0.11  # three standard errors of 240 cases
    assert 0.25 < (drawn.rates > FAST).mean() < 0.5


def spectra(signals: np.ndarray) -> np.ndarray:
    """Log amplitudes in 40 bands up to 40 Hz, and 20 quantiles, of every lead."""
    bands = np.abs(np.fft.rfft(signals, axis=2))[:, :, :400].reshape(len(signals), 12, 40, 10).mean(axis=3)
    return np.concatenate([np.log(bands + 1e-3), np.sort(signals, axis=2)[:, :, ::50]], axis=2).reshape(
        len(signals), -1
    )


def test_a_linear_model_learns_the_label_but_not_perfectly(drawn: Ecgs) -> None:
    features = spectra(drawn.signals)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    model.fit(features[:120], drawn.labels[:120])
    assert 0.7 < roc_auc_score(drawn.labels[120:], model.decision_function(features[120:])) < 0.99


def test_a_record_has_the_bytes_that_wfdb_writes(drawn: Ecgs, tmp_path: Path) -> None:
    wfdb = pytest.importorskip("wfdb", reason="the signals extra is not installed")
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
    signal = drawn.signals[0]
    write_record(tmp_path / "ours", "ecg-1", signal)
    wfdb.wrsamp(
        "ecg-1",
        fs=FREQUENCY,
        units=["mV"] * 12,
        sig_name=list(LEADS),
        p_signal=signal.T.astype(np.float64),
        fmt=["16"] * 12,
        adc_gain=[1000.0] * 12,
        baseline=[0] * 12,
        write_dir=str(tmp_path / "theirs"),
    )
    for name in ("ecg-1.hea", "ecg-1.dat"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    np.testing.assert_allclose(wfdb.rdrecord(str(tmp_path / "ours" / "ecg-1")).p_signal.T, signal, atol=5.1e-4)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match=r"abnormal from 0 to 1, got 1 and 1\.5"):
        draw_ecgs(1, seed=0, abnormal=1.5)
