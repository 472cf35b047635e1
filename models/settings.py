"""Settings of networks, training and sampling: sections of the configuration, with types.

Scripts build them once, from the validated configuration. Those of a method are in its file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline.jobs.experiment import Model, replaced


@dataclass(frozen=True)
class Network:
    """The configuration's ``network``: the U-Net that several methods share, and ``size``.

    Attributes
    ----------
    size : int
        Pixels a side that networks work on.
    patch : int
        Pixels a side that the first convolution takes as one.
    width : int
        Channels at full resolution.
    multipliers : sequence of int
        Width of each stage in units of ``width``.
    blocks : int
        Residual blocks of a stage.
    heads, head_dim : int
        Attention heads, and features of each.
    """

    size: int
    patch: int
    width: int
    multipliers: Sequence[int]
    blocks: int
    heads: int
    head_dim: int


@dataclass(frozen=True)
class Sampling:
    """How methods that sample reconstruct.

    Attributes
    ----------
    sampler : str
        "ddpm", "ddim" or "dpm-solver++".
    steps : int
        Sampling steps; a divisor of the method's timesteps.
    eta : float
        Noise of ddim, from 0 to 1.
    guidance : float
        Classifier-free guidance lambda_2; 0 is the conditional model alone.
    samples : int
        Samples K of each slice.
    antithetic : bool
        Whether every second sample starts from the negative of the noise before it.
    """

    sampler: str
    steps: int
    eta: float
    guidance: float
    samples: int
    antithetic: bool


@dataclass(frozen=True)
class Consistency:
    """The configuration's ``sampling.consistency``; see `models.consistency`.

    Attributes
    ----------
    steps : int
        EM steps with the measured counts on each estimate of x_0; 0 for none.
    strength : float
        Part of the way to their image that an estimate goes, from 0 to 1.
    start : float
        Part of the sampling steps, from the noise on, that has none; below 1.
    """

    steps: int
    strength: float
    start: float

    @property
    def on(self) -> bool:
        """Whether it changes anything."""
        return self.steps > 0 and self.strength > 0

    def facts(self) -> dict[str, float]:
        """Give what files and tables say of it; zeros where it is off."""
        used = asdict(self) if self.on else {"steps": 0, "strength": 0.0, "start": 0.0}
        return {f"consistency_{name}": value for name, value in used.items()}


@dataclass(frozen=True)
class FinalSampling(Sampling):
    """The configuration's ``sampling``.

    Attributes
    ----------
    consistency : Consistency
    weights : str
        "raw", or "ema" for their moving average; of every method.
    batch_size : int
        Slices reconstructed at a time, by every method.
    """

    consistency: Consistency
    weights: str
    batch_size: int

    @classmethod
    def of(cls, sampling: Mapping[str, Any]) -> "FinalSampling":
        """Give types to a section ``sampling``."""
        return cls(**{**sampling, "consistency": Consistency(**sampling["consistency"])})

    def changed(self, changes: Mapping[str, Any]) -> "FinalSampling":
        """Replace some of it, of ``consistency`` key by key."""
        return self.of(replaced(asdict(self), changes))


@dataclass(frozen=True)
class Training:
    """The configuration's ``training``: how every method is trained.

    Attributes
    ----------
    device : str
        "auto" (CUDA where there is one), "cpu" or "cuda".
    devices : int
        That train one network together.
    threads : int
        CPU cores of one job; 0 for all.
    precision : str
        "32-true" or "bf16-mixed".
    target : str
        What networks are to give, a name of `models.channels.TARGETS`.
    gradient_clip : float
        Largest norm of a network's gradient; 0 for none.
    ema_decay : float
        Of the weights' moving average; 0 for none.
    compile, activation_checkpointing : bool
    workers : int
        Processes that read slices ahead.
    accept_code : str
        Hash of earlier code whose unfinished runs may go on; "" for none.
    log_every_steps, checkpoint_every_steps, validate_every_steps : int
        Steps between rows of the log, working checkpoints, validations.
    validation_slices : int
        Slices of a validation.
    validation_sampling : Sampling
        Of methods that sample.
    """

    device: str
    devices: int
    threads: int
    precision: Literal["32-true", "bf16-mixed"]
    target: str
    gradient_clip: float
    ema_decay: float
    compile: bool
    activation_checkpointing: bool
    workers: int
    accept_code: str
    log_every_steps: int
    checkpoint_every_steps: int
    validate_every_steps: int
    validation_slices: int
    validation_sampling: Sampling


@dataclass(frozen=True)
class Settings:
    """What a job that trains a model, or reconstructs with one, is told."""

    model: Model
    network: Network
    training: Training
    sampling: FinalSampling

    @classmethod
    def of(cls, model: Mapping[str, Any], config: Mapping[str, Any]) -> "Settings":
        """Give types to a model, as `dataclasses.asdict` has it, and to the configuration."""
        training = config["training"]
        validation = Sampling(**training["validation_sampling"])
        return cls(
            Model(**model),
            Network(**config["network"]),
            Training(**{**training, "validation_sampling": validation}),
            FinalSampling.of(replaced(config["sampling"], model.get("sampling", {}))),
        )


@dataclass(frozen=True)
class Sweep:
    """An entry of the configuration's ``evaluation.sweeps``.

    Attributes
    ----------
    models : sequence of str
    slices : int
        Of each subject.
    sampling : sequence of mapping
        What replaces fields of `FinalSampling`, one after the other.
    """

    models: Sequence[str]
    slices: int
    sampling: Sequence[Mapping[str, Any]]
