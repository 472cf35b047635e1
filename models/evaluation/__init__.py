"""From reconstructions to the table of all metrics."""
