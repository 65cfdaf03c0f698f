"""What is made from the records of runs: reports, TensorBoard events, a site's own report."""
