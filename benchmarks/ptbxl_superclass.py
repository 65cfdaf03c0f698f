"""The records of PTB-XL with exactly one diagnostic superclass, as a table with a column of it.

    python -m benchmarks.ptbxl_superclass FOLDER OUT.csv

FOLDER holds ptbxl_database.csv and scp_statements.csv. A record's superclasses are those of its diagnostic statements
(``diagnostic_class`` of scp_statements.csv) with a likelihood above 0; a statement of likelihood 0 (unknown) counts if
the record has no other. Prints how many records have one, by recording site and superclass.
"""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

import pandas as pd

from consilia.core.files import write_bytes


def superclasses(codes: str, of_statement: dict[str, str]) -> set[str]:
    """The superclasses of a record, from its ``scp_codes``: a dict of likelihoods by statement, as text."""
    found: dict[str, float] = ast.literal_eval(codes)
    diagnostic = {name: likelihood for name, likelihood in found.items() if name in of_statement}
    sure = [name for name, likelihood in diagnostic.items() if likelihood > 0]
    return {of_statement[name] for name in sure or diagnostic}


def with_one(database: pd.DataFrame, statements: pd.DataFrame) -> pd.DataFrame:
    """The rows with exactly one superclass, and that in a column ``superclass``."""
    diagnostic = statements[statements["diagnostic"] == 1]
    of_statement = dict(zip(diagnostic.index, diagnostic["diagnostic_class"], strict=True))
    found = database["scp_codes"].map(lambda codes: superclasses(codes, of_statement))
    one = found.map(len) == 1
    return database[one].assign(superclass=found[one].map(lambda classes: next(iter(classes))))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    database = pd.read_csv(options.folder / "ptbxl_database.csv", dtype=str)
    statements = pd.read_csv(options.folder / "scp_statements.csv", index_col=0)
    table = with_one(database, statements)
    write_bytes(options.out, table.to_csv(index=False, lineterminator="\n").encode(), private=True)
    print(f"{options.out}: {len(table)} of {len(database)} records have exactly one superclass")
    print(pd.crosstab(table["site"], table["superclass"]).to_string())


if __name__ == "__main__":
    main()
