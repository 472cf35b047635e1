"""From tables to what is read: Table 1 and figures."""
