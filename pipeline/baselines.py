"""Names of the reconstructions without a network, which all tables and figures have."""

OSEM_FILTER, MAP = "OSEM-filter", "MAP"

RECONSTRUCTED = {OSEM_FILTER: "OSEM + filter", MAP: "MAP"}
"""Those of rule ``classical``, as their files are called, and how tables and figures call them."""

BASELINES = ("FBP", "OSEM", *RECONSTRUCTED)
"""All, in the tables' order; the shards have the first two."""


def title_of(name: str, lower: bool = False) -> str:
    """Give the name to read of a baseline or any model, where others have all or lower counts."""
    return "OSEM of all counts" if name == "OSEM" and lower else RECONSTRUCTED.get(name, name)
