"""DPM-Solver++ in few steps against DDPM with all of them, on a trained network.

Same weights, slices, seeds and batches; PSNR of single samples against the OSEM reference, data
range 1, whole image. Without options the demonstration's cDPM and test subject are used:

    snakemake --cores all --configfile config/demo.yaml
    python -m benchmarks.sampling [--weights FILE] [--shard FILE] [--steps 20] [--slices 48]
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from models import checkpoints, metrics
from models.dataset import Batch, ShardSlices
from models.loader import batches
from models.sections import frozen_of
from models.settings import Network, Sampling

ROOT = Path(__file__).parents[1]


def read_slices(shard: Path, metadata: checkpoints.Metadata, count: int) -> Batch:
    """Read slices, evenly spaced over a shard."""
    size, conditioning = metadata.network["size"], metadata.settings["conditioning"]
    slices = ShardSlices([shard], size, metadata.scales, conditioning)
    (batch,) = batches(slices, [slices.evenly_spaced(count)], 0, False)
    return batch


@torch.no_grad()
def run(method: Any, batch: Batch, sampling: Sampling) -> tuple[float, float]:
    """Sample every slice once: seconds and mean PSNR in dB."""
    start = time.perf_counter()
    images = method.reconstruct(batch.inputs, batch.keys, sampling, 0)
    seconds = time.perf_counter() - start
    return seconds, float(metrics.psnr_db(images, batch.image).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    demo = ROOT / "results/demo/weights/cDPM.safetensors"
    parser.add_argument("--weights", type=Path, default=demo)
    parser.add_argument("--shard", type=Path, default=ROOT / "data/demo/shards/subject05.h5")
    parser.add_argument("--steps", type=int, default=20, help="of DPM-Solver++")
    parser.add_argument("--slices", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    metadata = checkpoints.read_metadata(options.weights)
    method, metadata = checkpoints.load(options.weights, Network(**metadata.network))
    if frozen := frozen_of(metadata.method, metadata.settings):
        path = options.weights.with_name(f"{frozen}.safetensors")
        checkpoints.attach_frozen(method, metadata, path)
    batch = read_slices(options.shard, metadata, options.slices)
    few = Sampling(
        "dpm-solver++", options.steps, eta=0.0, guidance=0.0, samples=1, antithetic=False
    )
    every = replace(few, sampler="ddpm", steps=metadata.settings["timesteps"])
    run(method, batch, few)  # a warm-up
    (fast, fast_psnr), (slow, slow_psnr) = run(method, batch, few), run(method, batch, every)
    print(f"{metadata.model}, {len(batch.keys)} slices, {options.threads} threads")
    for sampling, seconds, psnr in ((few, fast, fast_psnr), (every, slow, slow_psnr)):
        name = f"{sampling.sampler}, {sampling.steps} steps"
        print(f"{name:26} {seconds / len(batch.keys) * 1e3:9.1f} ms/slice  {psnr:6.2f} dB")
    print(f"{slow / fast:.1f} times as fast, PSNR {fast_psnr - slow_psnr:+.2f} dB")


if __name__ == "__main__":
    main()
