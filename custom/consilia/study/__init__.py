"""Studies: several methods and baselines on the same data, compared."""
