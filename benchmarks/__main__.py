"""Run every benchmark of this folder in turn.

Each has a process of its own, so that none finds the threads and the memory of another.
"""

import subprocess
import sys

NAMES = "projector", "map", "unet", "small_unet", "methods", "sampling", "scaling", "starts"

if __name__ == "__main__":
    for name in NAMES:
        print(f"-- {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
