import platform
import subprocess
import sys

import pytest

from helpers.configurations import ROOT

KEPT = """
from pathlib import Path
import torch
from models.devices import keep_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

keep_memory()
before = resident()
tensors = [torch.ones(2**22) for _ in range(6)]
full = resident()
del tensors
print(full - before, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_memory_is_kept():
    """Of 100 MB that tensors have given back."""
    output = subprocess.check_output([sys.executable, "-c", KEPT], cwd=ROOT, text=True)
    full, after = map(int, output.split())
    assert full > 20_000  # pages of 4096 bytes
    assert after > 0.9 * full
