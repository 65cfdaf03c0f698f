# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A study from a csv of your own
#
# One table with the patients of several hospitals becomes a federation on this machine: methods and baselines are
# compared, and the model is judged and used at a hospital that never trained. To begin with your own table, leave out
# the cell that makes one and change the federation file. Everything is written below the current folder.

# %%
from pathlib import Path

import numpy as np
import pandas as pd

import consilia
from consilia.data.check import check_site
from consilia.simulation.federation import load_federation

# %% [markdown]
# ## The table
#
# Made up here: four hospitals whose patients differ in number and age, and whose laboratories measure with an offset.


# %%
def hospital(name: str, patients: int, age: float, offset: float, random: np.random.Generator) -> pd.DataFrame:
    """Patients of one hospital; who is older, male or has more of the marker is more often ill."""
    years, marker = random.normal(age, 9, patients).round(), random.normal(0, 1, patients)
    sex = random.choice(["f", "m"], patients)
    risk = 0.07 * (years - 62) + 1.4 * marker + 0.6 * (sex == "m") - 0.3
    ill = random.random(patients) < 1 / (1 + np.exp(-risk))
    return pd.DataFrame(
        {
            "hospital": name,
            "age": years,
            "sex": sex,
            "marker": (marker + offset).round(3),
            "pressure": random.normal(130, 15, patients).round(),
            "disease": np.where(ill, "yes", "no"),
        }
    )


hospitals = [("north", 150, 70, 0.0), ("south", 90, 55, 0.3), ("east", 60, 62, -0.3), ("west", 120, 58, 0.5)]
random = np.random.default_rng(0)
everybody = pd.concat([hospital(*values, random) for values in hospitals], ignore_index=True)
everybody.insert(0, "patient", [f"p{number:03d}" for number in range(len(everybody))])
everybody.to_csv("patients.csv", index=False)
print(everybody.groupby("hospital")["disease"].value_counts().unstack())

# %% [markdown]
# ## The federation file
#
# It says which column is what, and which hospital a patient belongs to. `west` trains nothing: it is the hospital that
# gets the model when it is ready.

# %%
Path("hospitals.yaml").write_text("""
dataset: diagnosis
pooled:
  format: tabular
  file: patients.csv
  case: patient
  patient: patient
  classes: [healthy, ill]
  label: {column: disease, mapping: {"no": healthy, "yes": ill}}
  numeric: [age, marker, pressure]
  categorical: {sex: [f, m]}
partition:
  by: column
  column: hospital
  names: {north: north, south: south, east: east, west: west}
leave_out: west
""")
sites = load_federation("hospitals.yaml", Path("sites"))
reports = [report for file in sites.values() for report in check_site(file)]
for report in reports:
    print(report.site, report.cases, "cases", report.counts, *report.warnings, *report.errors)

# %% [markdown]
# ## Methods and baselines
#
# Two federated methods beside one model on the pooled patients, a logistic regression, and always the same answer.

# %%
study = {
    "data": "hospitals.yaml",
    "run": {"rounds": 10, "training": {"learning_rate": 0.05, "local_epochs": 4}},
    "methods": {"fedavg": {"method": "fedavg"}, "fedkper": {"method": "fedkper"}},
    "baselines": ["centralised", "linear", "majority"],
}
found = consilia.compare(study, out="runs/study")
frame = found.to_frame()
shown = ["global_accuracy", "global_auroc", "personal_accuracy", "personal_auroc"]
last = frame[(frame["version"] == "last") & frame["metric"].isin(shown)]
print(last.pivot(index="method", columns="metric", values="mean").round(3).to_string())
print("With plots:", found.folder / "report.html")

# %% [markdown]
# Each site's metrics, of one run's model. With several seeds (`seeds=[0, 1, 2]`) the comparison has their standard
# deviation.

# %%
run = found.runs[0]
tested = run.to_frame().query("version == 'best' and model == 'global' and split == 'test'")
print(tested[["site", "count", "accuracy", "auroc"]].round(3).to_string(index=False))

# %% [markdown]
# ## At the hospital that never trained
#
# First the model is judged on the hospital's own labelled patients: metrics of other hospitals do not hold for it. A
# page and a table of all its cases are in the folder `evaluation`.

# %%
west = found.folder / "sites" / "west" / "site.yaml"
judged = consilia.evaluate(run.models["best"], site=west, out="evaluation")
print(judged.to_frame().set_index("metric").loc[["auroc", "operating.sensitivity", "operating.specificity"]].round(3))

# %% [markdown]
# Then it answers on new patients, of whom the features alone are known.

# %%
new = everybody[everybody["hospital"] == "west"].head(5).drop(columns=["disease", "hospital"])
new.to_csv("new.csv", index=False)
answers = consilia.load(run.models["best"]).predict("new.csv", site=west).to_frame()
print(answers.round(3).to_string(index=False))
