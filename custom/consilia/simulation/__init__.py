"""What only a study on one machine needs: federation files, partitions of pooled data, synthetic data."""
