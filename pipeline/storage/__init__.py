"""Files: how each kind is written, read and refused."""
