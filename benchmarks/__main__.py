"""Run every benchmark of this folder in turn."""

from benchmarks import projector

if __name__ == "__main__":
    projector.main()
