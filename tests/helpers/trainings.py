"""Training runs of moments, and ways to interrupt them, that several tests share."""

import csv

from helpers.small_models import job, make_shard, settings
from models.registry import load
from models.training.train import train


def split(folder):
    """Make two training shards of three slices each and one validation shard."""
    train_shards = [
        make_shard(folder / f"t{n}.h5", subject=f"subject0{n}", slices=3, seed=n) for n in (4, 5)
    ]
    return train_shards, [make_shard(folder / "v.h5", subject="subject20", slices=3, seed=9)]


def run(folder, data, name, model="PnPNet", frozen=None, config=None):
    """Train a model in a subfolder, and give the path of its weights."""
    subfolder = folder / name
    subfolder.mkdir(exist_ok=True)
    output = subfolder / f"{model}.safetensors"
    train(
        job(config or settings(), model),
        *data,
        output=output,
        kept=subfolder / "kept",
        run_dir=subfolder / "run",
        log_csv=subfolder / "log.csv",
        frozen=frozen,
        threads=1,
    )
    return output


def working(folder):
    """Working checkpoint of the only run whose state lies in a subfolder."""
    (found,) = (folder / "run").glob("*/working.pt")
    return found


def rows(path):
    """Rows of a CSV table as dicts."""
    with path.open() as file:
        return list(csv.DictReader(file))


def kept(output):
    """Contents of the epoch checkpoints beside a run's weights."""
    return {path.name: path.read_bytes() for path in sorted((output.parent / "kept").iterdir())}


class Killed(BaseException):
    pass


def kill():
    raise Killed


def die_at_call(monkeypatch, number, act, method="PnPNet"):
    """Have the ``number``-th training step (from 0) do something else first."""
    calls, plain = [], load(method).training_step

    def step(self, batch, draws):
        calls.append(batch)
        if len(calls) == number + 1:
            act()
        return plain(self, batch, draws)

    monkeypatch.setattr(load(method), "training_step", step)
