"""A site's data, from the files that site.yaml names to preprocessed splits in memory."""
