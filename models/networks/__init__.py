"""Networks, which know of no method."""
