"""Measured projection data of any scanner, read as users have them and rebinned to planes."""
