"""What is right, and how fast it is, on this machine's GPU: ``make gpu``.

Without a GPU every step runs at a tiny size on the CPU. docs/gpu/README.md says what the rows mean.
"""
