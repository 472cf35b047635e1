"""Run every benchmark of this folder in turn.

Each has a process of its own, so that none finds the threads and the memory of another.
"""

import subprocess
import sys

if __name__ == "__main__":
    for name in ("projector", "map", "unet", "methods", "sampling", "scaling", "starts"):
        print(f"-- {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
