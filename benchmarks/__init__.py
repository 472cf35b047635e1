"""Measurements that `docs/performance.md` reports; `make bench` runs all that can run here."""
