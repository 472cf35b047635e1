"""Where phantoms come from."""
