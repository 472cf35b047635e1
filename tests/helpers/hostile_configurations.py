"""Configurations that are broken or hostile, or contradict themselves, and their check."""

import numpy as np

from helpers import hostile as jobs
from helpers.configurations import DELETE
from helpers.hostile import Case, checked, nothing
from helpers.volumes import PACKED

CONFIGURATIONS = [
    Case(f"configuration: {name}", make, act, wanted)
    for name, make, act, wanted in (
        ("misspelt key", nothing, checked(sede=1), ("sede", "value 1", "did you mean 'seed'")),
        ("missing key", nothing, checked(seed=DELETE), ("lacks seed", "config/config.yaml")),
        ("missing section", nothing, checked(osem=None), ("osem: is None", "a section with keys")),
        ("text", nothing, checked(seed="one"), ("seed: is 'one'", "give a whole number")),
        ("no number", nothing, checked(slices__pixel_mm="2,5"), ("is '2,5'", "a number")),
        ("no whole number", nothing, checked(seed=1.5), ("seed: is 1.5", "a whole number")),
        ("truth value", nothing, checked(seed=True), ("seed: is True", "a whole number")),
        ("NaN", nothing, checked(slices__pixel_mm=np.nan), ("pixel_mm: is nan", "a number")),
        ("too small", nothing, checked(slices__size=7), ("size: is 7", "at least 8")),
        ("too large", nothing, checked(network__width=10**9), ("1000000000", "at most 512")),
        ("no choice", nothing, checked(fbp__window="box"), ("'box'", "one of ramp, hann")),
        ("bad entry", nothing, checked(network__multipliers=[1, 0]), ("multipliers.1: is 0", "at")),
        ("empty list", nothing, checked(evaluation__models=[]), ("is []", "at least 1 entries")),
        ("path for a name", nothing, checked(name="../x"), ("name: is '../x'", "matching ^[a-z")),
        ("line end in a name", nothing, checked(name="x\n"), (r"name: is 'x\n'", "matching ^[a-z")),
        ("name of a variant", nothing, checked(**jobs.variant("a/b")), ("'a/b'", "matching ^[A-Z")),
        ("endless text", nothing, checked(seed="x" * 10**6), ("xx [...] xx", "a whole number")),
        ("contradiction", nothing, checked(osem__subsets=20), ("20 subsets do not", "choose one")),
        ("unknown method", nothing, checked(**jobs.variant("v", "X")), ("is 'X'", "one of PnPNet")),
        ("no table", nothing, checked(subjects="none.tsv"), ("none.tsv: does not exist", "path")),
        ("odd table", nothing, checked(subjects="a\0b"), (r"a\x00b: cannot be read", "its path")),
        ("folder as table", nothing, checked(subjects="."), ("no regular file", "correct its")),
        ("endless table", nothing, checked(subjects="/dev/zero"), ("/dev/zero", "no regular file")),
        ("long table", *jobs.table(bytes(2**25)), ("t.tsv: has 33554432 bytes", "replace it")),
        ("packed table", *jobs.table(PACKED), ("t.tsv: cannot be read", "codec", "replace it")),
        ("table without columns", *jobs.table(b"a\tb\n"), ("lacks the columns", "separated by")),
        ("two splits", *jobs.table(jobs.TWICE), ("t.tsv, line 3: subject04", "keep one of the")),
        ("with code", *jobs.overlay(jobs.YAML_CODE), ("t.yaml: is no", "os.system", "correct it")),
        ("a list", *jobs.overlay(b"- 1"), ("t.yaml: is no configuration", "give sections")),
    )
]
