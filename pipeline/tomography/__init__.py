"""The scanner: geometry, projectors, forward model."""
