"""What the measurement means: hours of every model and of the whole experiment, and an overlay."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from benchmarks.gpu.fast import COMPILED, EAGER, Measurement
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.table import NotRun, Row
from models.sections import frozen_of
from pipeline.jobs.experiment import Model, models_of, sampling_of
from pipeline.sources.subjects import read_subjects


@dataclass(frozen=True)
class Choice:
    """Settings of the configuration, and the hours that they mean.

    Attributes
    ----------
    precision : str
        ``training.precision``.
    compile : bool
        ``training.compile``.
    batch : int
        ``sampling.batch_size``.
    training_h, sampling_h : dict of float
        Hours of every trained, and every evaluated model.
    """

    precision: str
    compile: bool
    batch: int
    training_h: dict[str, float]
    sampling_h: dict[str, float]

    @property
    def total_h(self) -> float:
        """All hours."""
        return sum(self.training_h.values()) + sum(self.sampling_h.values())

    def __str__(self) -> str:
        compiled = "compiled" if self.compile else "not compiled"
        return f"{self.precision}, {compiled}, {self.batch} slices sampled at a time"

    def overlay(self, machine: Machine) -> str:
        """Give the settings as an overlay of config/config.yaml."""
        remark = "" if machine.cuda else " Tiny networks on a CPU: of no use but for a test."
        settings = {
            "training": {"precision": self.precision, "compile": self.compile},
            "sampling": {"batch_size": self.batch},
        }
        return (
            f"# The settings that were fastest on {machine.name}, measured by `make gpu`:\n"
            f"# snakemake --cores all --configfile gpu.yaml.{remark}\n"
            f"# Batches of training stay the configuration's: they decide what networks learn.\n"
            f"{yaml.safe_dump(settings, sort_keys=False)}"
        )


class Experiment:
    """How much there is to compute."""

    def __init__(self, config: Mapping[str, Any]):
        self.config, self.models = config, models_of(config)
        slices, subjects = config["slices"], read_subjects(Path(config["subjects"])).values()
        each = slices["per_volume"] * slices["rotations"]
        self.training_slices, self.test_slices = (
            each * sum(subject.split == split for subject in subjects)
            for split in ("train", "test")
        )

    @property
    def evaluated(self) -> list[Model]:
        """The models of ``evaluation.models``."""
        return [self.models[name] for name in self.config["evaluation"]["models"]]

    @property
    def trained(self) -> list[Model]:
        """The models that are trained for them and for sweeps, those used frozen among them."""
        names = list(self.config["evaluation"]["models"])
        for sweep in self.config["evaluation"]["sweeps"].values():
            names += sweep["models"]
        found: dict[str, Model] = {}
        while names:
            model = self.models[self.models[names.pop()].trained]
            found[model.name] = model
            if frozen := frozen_of(model.method, model.settings):
                names.append(frozen)
        return [model for name, model in self.models.items() if name in found]

    def passes(self, model: Model) -> int:
        """Passes of the network that a test slice takes."""
        if "timesteps" not in model.settings:
            return 1
        sampling = sampling_of(self.config, model)
        return sampling["steps"] * sampling["samples"] * (2 if sampling["guidance"] else 1)

    def seen(self, name: str) -> int:
        """Slices that a model's training sees, epoch after epoch."""
        return self.models[name].settings["epochs"] * self.training_slices

    def passed(self, name: str) -> int:
        """Slices that pass a model's network while it reconstructs those for test."""
        return self.passes(self.models[name]) * self.test_slices

    def choices(self, machine: Machine, found: Sequence[Measurement]) -> Iterator[Choice]:
        """Give all settings in which everything was measured; reconstructions are not compiled."""
        rates = {(each.method, each.precise, each.mode, each.batch): each for each in found}
        batches = sorted({each.batch for each in found})
        for precise, mode, batch in product(machine.precisions, (EAGER, COMPILED), batches):
            training = {
                model.name: (model.method, precise, mode, model.settings["batch_size"])
                for model in self.trained
            }
            sampling = {
                model.name: (model.method, precise, EAGER, batch) for model in self.evaluated
            }
            precision = machine.configured(precise)
            if precision and rates.keys() >= {*training.values(), *sampling.values()}:
                yield Choice(
                    precision,
                    mode == COMPILED,
                    batch,
                    {
                        name: self.seen(name) / rates[key].training_rate / 3600
                        for name, key in training.items()
                    },
                    {
                        name: self.passed(name) / rates[key].sampling_rate / 3600
                        for name, key in sampling.items()
                    },
                )

    def rows(self, chosen: Choice, choices: Sequence[Choice]) -> Iterator[Row]:
        """Say what settings mean for each model, and for all, beside the configuration's own."""
        for model in self.trained:
            what = f"{model.name}: training, {model.settings['epochs']} epochs"
            yield Row(what, chosen.training_h[model.name], "h")
        for model in self.evaluated:
            what = f"{model.name}: {self.test_slices} test slices, {self.passes(model)} passes"
            yield Row(what, chosen.sampling_h[model.name], "h")
        note = f"{chosen}; without the data half, validations, sweeps and figures"
        yield Row("snakemake --cores all, with gpu.yaml", chosen.total_h, "h", note=note)
        training = self.config["training"]
        own = [
            choice
            for choice in choices
            if (choice.precision, choice.compile) == (training["precision"], training["compile"])
        ]
        what = "snakemake --cores all, without it"
        if own:
            best = min(own, key=lambda choice: choice.total_h)
            yield Row(what, best.total_h, "h", note=str(best))
        else:
            yield Row(what, missing="the configuration's own settings were not measured")


def rows(machine: Machine, found: Sequence[Measurement], overlay: Path) -> Iterator[Row]:
    """Give hours with the fastest settings, and write these as an overlay.

    Raises
    ------
    NotRun
        If no settings have been measured for all models.
    """
    experiment = Experiment(machine.config)
    choices = list(experiment.choices(machine, found))
    if not choices:
        raise NotRun("not every method was measured in the same precision")
    chosen = min(choices, key=lambda choice: choice.total_h)
    overlay.write_text(chosen.overlay(machine), encoding="utf-8")
    yield from experiment.rows(chosen, choices)
