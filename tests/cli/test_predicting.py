"""``consilia predict`` and ``consilia site prepare``: a model that was handed over, at a hospital of one's own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from consilia.core.tensor_files import read_tensors, write_tensors
from consilia.data.loading import load_site
from consilia.federation.model_card import CardPreprocessing, run_card, save_model
from consilia.models.exchange import exchanged_state
from tests.cli.clinic import by_hand, draw, training_values, write_clinic, write_model
from tests.cli.support import consilia
from tests.federation.support import model_of, small


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def hospital(tmp_path: Path) -> tuple[Path, Path]:
    """A site that has not trained, and a model of another."""
    site = write_clinic(tmp_path / "west")
    model = tmp_path / "global-best.safetensors"
    write_model(model, write_clinic(tmp_path / "east"))
    return site, model


def test_a_site_that_has_not_trained_is_told_the_command_and_predicts_after_it(hospital, tmp_path: Path) -> None:
    site, model = hospital
    arguments = ["predict", model, "--site", site, "--cases", site.parent / "images", "--out", tmp_path / "out.csv"]
    message = consilia(*arguments, code=1)
    assert f"consilia site prepare {site} --dataset mass fits and writes it" in message
    assert "fitted on its 16 training cases" in consilia("site", "prepare", site)
    consilia(*arguments)
    network = write_model(tmp_path / "again.safetensors", tmp_path / "east" / "site.yaml")
    mean, std = training_values(site)
    for row in rows(tmp_path / "out.csv"):
        expected = by_hand(network, site.parent / "images" / f"{row['case']}.png", mean, std)
        assert float(row["p_malignant"]) == pytest.approx(expected, abs=1e-5)


def test_a_test_only_site_is_prepared_on_its_own_cases_and_says_so(tmp_path: Path) -> None:
    site = write_clinic(tmp_path / "west", test_only=True)
    text = consilia("site", "prepare", site, "--dataset", "mass")
    assert "all its 24 cases, as it is a test-only site; labels play no part" in text


def test_fixed_values_need_no_preparation(tmp_path: Path) -> None:
    site, model = write_clinic(tmp_path / "west", normalise="half"), tmp_path / "m.safetensors"
    network = write_model(model, write_clinic(tmp_path / "east", normalise="half"))
    image = site.parent / "images" / "us-3.png"
    text = consilia("predict", model, "--site", site, "--cases", image, "--out", tmp_path / "out.csv")
    assert "fixed values of site.yaml" in text
    (row,) = rows(tmp_path / "out.csv")
    assert float(row["p_malignant"]) == pytest.approx(by_hand(network, image, 0.5, 0.5), abs=1e-5)


def test_one_bad_file_is_a_row_and_an_exit_status(hospital, tmp_path: Path) -> None:
    site, model = hospital
    consilia("site", "prepare", site)
    for folder in ("benign", "malignant/left"):
        (tmp_path / "new" / folder).mkdir(parents=True)
    Image.fromarray(draw(1, False)).save(tmp_path / "new" / "benign" / "a.png")
    Image.fromarray(draw(2, True)).save(tmp_path / "new" / "malignant" / "left" / "a.png")
    (tmp_path / "new" / "malignant" / "b.png").write_bytes(b"no image")
    (tmp_path / "new" / "malignant" / ".hidden.png").write_bytes(b"left behind")
    arguments = ["predict", model, "--site", site, "--cases", tmp_path / "new", "--out", tmp_path / "out.csv"]
    assert "1 case(s) could not be read" in consilia(*arguments, code=1)
    found = rows(tmp_path / "out.csv")
    assert [(row["case"], row["folder"]) for row in found] == [
        ("benign/a", "benign"),
        ("malignant/b", "malignant"),
        ("malignant/left/a", "malignant/left"),
    ]
    assert [bool(row["answer"]) for row in found] == [bool(row["p_benign"]) for row in found] == [True, False, True]
    assert "b.png: expected a readable image" in found[1]["error"]
    assert found[0]["error"] == found[2]["error"] == ""


def test_a_csv_of_paths(hospital, tmp_path: Path) -> None:
    site, model = hospital
    consilia("site", "prepare", site)
    (tmp_path / "list.csv").write_text("path,note\nwest/images/us-5.png,x\nwest/images/us-2.png,y\nnowhere.png,z\n")
    arguments = ["predict", model, "--site", site, "--cases", tmp_path / "list.csv", "--out", tmp_path / "out.csv"]
    consilia(*arguments, code=1)
    found = rows(tmp_path / "out.csv")
    assert [row["case"] for row in found] == ["us-5", "us-2", "nowhere"]
    assert "nowhere.png: expected a readable image: no such file" in found[2]["error"]
    # The site's own table names its images by the pattern of site.yaml.
    arguments = ["predict", model, "--site", site, "--cases", site.parent / "table.csv", "--out", tmp_path / "own.csv"]
    consilia(*arguments)
    own = {row["case"]: row["p_malignant"] for row in rows(tmp_path / "own.csv")}
    assert len(own) == 24
    assert own["us-5"] == found[0]["p_malignant"]
    (tmp_path / "list.csv").write_text("file\na.png\n")
    message = consilia(*arguments[:4], "--cases", tmp_path / "list.csv", "--out", tmp_path / "x.csv", code=1)
    assert "expected a column path or image with the path of each image" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"normalise": "half"}, 'normalise: the model "train", site.yaml "half"'),
        ({"size": [32, 32]}, "size: the model [16, 16], site.yaml [32, 32]"),
        ({"mode": "rgb"}, 'mode: the model "gray", site.yaml "rgb"'),
    ],
)
def test_another_preprocessing_is_refused_with_both_values(hospital, tmp_path: Path, changes: dict, words: str) -> None:
    _, model = hospital
    site = write_clinic(tmp_path / "other", **changes)
    consilia("site", "prepare", site)
    message = consilia("predict", model, "--site", site, "--cases", site.parent / "images", code=1)
    assert words in message


def test_other_columns_are_named(wisconsin: dict[str, Path], tmp_path: Path) -> None:
    site = wisconsin["hospital-1"]
    data = load_site(site, "diagnosis")
    names = [f"column {i} of a table" for i in range(30)]
    layout = {**data.dataset().preprocessing.described(), "numeric": json.dumps(names)}
    preprocessing = CardPreprocessing(rule="each site's own", layout=layout)
    model, run = tmp_path / "m.safetensors", small("fedavg")
    card = run_card(run, data.class_names, "global-last", preprocessing=preprocessing)
    save_model(model, exchanged_state(model_of(run)), card)
    message = consilia("predict", model, "--site", site, "--cases", site.parent / "cases.csv", code=1)
    assert "numeric: the model has 30, site.yaml 30: it lacks ['column 0 of a table'," in message
    assert "and has ['mean radius'" in message


def test_another_size_gets_our_words_with_a_card_of_an_older_version(hospital, tmp_path: Path) -> None:
    _, model = hospital
    state, metadata = read_tensors(model)
    card = json.loads(metadata["consilia"])
    for key in ("preprocessing", "threshold", "training_sites", "metrics", "licence", "seed", "version"):
        del card[key]
    old = tmp_path / "old.safetensors"
    write_tensors(old, state, {"consilia": json.dumps(card)})
    site = write_clinic(tmp_path / "other", size=[32, 32])
    consilia("site", "prepare", site)
    message = consilia("predict", old, "--site", site, "--cases", site.parent / "images", code=1)
    assert "takes images of 16 x 16 pixels and 1 channel(s), dataset 'mass' of" in message
    assert "gives images of 32 x 32 pixels and 1 channel(s): set size: [16, 16] and mode: gray there" in message
    assert "it says nothing of preprocessing, threshold, training_sites" in message
    assert "mat1" not in message


def test_a_model_with_values_that_are_no_numbers_answers_nothing(hospital, tmp_path: Path) -> None:
    site, model = hospital
    consilia("site", "prepare", site)
    state, metadata = read_tensors(model)
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    state[name].view(-1)[0] = float("nan")
    broken = tmp_path / "broken.safetensors"
    write_tensors(broken, state, metadata)
    out = tmp_path / "out.csv"
    message = consilia("predict", broken, "--site", site, "--cases", site.parent / "images", "--out", out, code=1)
    assert f"{name} has values that are no finite number: the file is damaged" in message
    assert not out.exists()


def test_the_answer_goes_by_the_threshold_of_the_card(hospital, tmp_path: Path) -> None:
    site, _ = hospital
    consilia("site", "prepare", site)
    answers = []
    for number, threshold in enumerate((0.0, None, 1.0)):
        model = tmp_path / f"{number}.safetensors"
        write_model(model, tmp_path / "east" / "site.yaml", threshold=threshold)
        out = tmp_path / f"{number}.csv"
        text = consilia("predict", model, "--site", site, "--cases", site.parent / "images", "--out", out)
        assert ("as the card has none" in text) == (threshold is None)
        answers.append([row["answer"] for row in rows(out)])
    half = ["malignant" if float(row["p_malignant"]) >= 0.5 else "benign" for row in rows(tmp_path / "1.csv")]
    assert answers == [["malignant"] * 24, half, ["benign"] * 24]


def test_a_dataset_of_another_name(hospital, tmp_path: Path) -> None:
    site, model = hospital
    site.write_text(site.read_text().replace("mass:", "lesions:"))
    arguments = ["predict", model, "--site", site, "--cases", site.parent / "images", "--out", tmp_path / "out.csv"]
    assert "no dataset 'mass'; its site.yaml has ['lesions']" in consilia(*arguments, code=1)
    consilia("site", "prepare", site)
    consilia(*arguments, "--dataset", "lesions")
    assert len(rows(tmp_path / "out.csv")) == 24
