"""The record of a run (result.json) and what is made from it: reports, TensorBoard events, a site's own report."""
