"""Memory that jobs ask for (``mem_mb``), from the configuration: networks, tables and figures.

As `pipeline.jobs.memory`, which see.
"""

from models.network_sizes import Size, size_of
from models.sections import frozen_of
from pipeline.jobs import memory
from pipeline.jobs.experiment import Model, models_of, replaced, sampling_of, sees_counts
from pipeline.jobs.memory import (
    PLAIN_MB,
    SCAN_PLANES,
    TORCH_MB,
    Config,
    asked,
    data_of,
    largest_of,
)

FIGURES_MB, TABLES_MB, PICTURES_MB, NETWORKS_MB = 130, 350, 450, 520
"""Python with figures of small tables; with tables of all metrics, as they are read; with figures
of images; with all that networks need. Measured on Linux, x86-64, in the smallest jobs."""

CUDA_MB = 4000
"""What CUDA's libraries take of a process's own memory, beside the GPU's; not measured by us."""

READER_MB = 80
"""A process that reads slices ahead: what it does not share with the one that it serves."""

# --- networks ----------------------------------------------------------------------------------


def _frozen(config: Config, model: Model) -> Size:
    """Size of another model's network that a model uses frozen."""
    frozen = frozen_of(model.method, model.settings)
    return size_of(config, models_of(config)[frozen]) if frozen else Size(0, 0, 0, 0, 0)


def _libraries(config: Config) -> int:
    return NETWORKS_MB + (0 if config["training"]["device"] == "cpu" else CUDA_MB)


def train(config: Config, model: Model) -> int:
    """All processes of a node that train a network, as if its activations were not on a GPU."""
    settings, training = model.settings, config["training"]
    size, pixels = size_of(config, model), config["network"]["size"] ** 2
    weights = size.weights + size.others
    # Weights, gradients, two moments of Adam, a moving average, in 32 bits; in 16 bits once more.
    state = 16 * weights + 4 * _frozen(config, model).weights
    state += 4 * size.weights if training["ema_decay"] else 0
    state += 2 * weights if training["precision"] == "bf16-mixed" else 0
    # Kept activations, 4 (of bfloat16 both kinds); with gradients and the convolutions' own copies
    # of the layers at hand. Or, when a run is resumed, what its checkpoint holds.
    kept = size.recomputed if training["activation_checkpointing"] else size.kept
    step = settings["batch_size"] * (4 * kept + 8 * size.live)
    held = state + max(step, 16 * weights)
    # Slices read ahead, two batches of each reader.
    channels = len(settings["conditioning"]) + 1
    batches = 1 + 2 * training["workers"]
    held += 4 * batches * settings["batch_size"] * channels * pixels
    held += 1e6 * READER_MB * training["workers"]
    return asked(training["devices"] * _libraries(config), training["devices"] * held)


def _prediction(config: Config, model: Model, sampling: Config, count: int) -> float:
    """Bytes that a model holds while it reconstructs ``count`` slices of a subject."""
    size, frozen = size_of(config, model), _frozen(config, model)
    samples, passes = 1, 1
    if "timesteps" in model.settings:
        samples, passes = sampling["samples"], 2 if sampling["guidance"] else 1
    batch = min(count, sampling["batch_size"])
    counts = memory.consistency(config, batch) if sees_counts(model, sampling) else 0
    # Weights as read and in the network; of a batch what one layer's work needs; samples by
    # batches, joined, and times the scale, 4 each; mean and deviation.
    # The frozen network runs before the other one.
    live = max(passes * size.live, frozen.live)
    held = 8 * size.weights + 8 * frozen.weights + 4 * batch * live
    return held + counts + (12 * samples + 12) * count * config["network"]["size"] ** 2


def reconstruct(config: Config, model: Model) -> int:
    """All slices of a subject."""
    held = _prediction(config, model, sampling_of(config, model), largest_of(config).slices)
    return asked(_libraries(config), held)


def scan_reconstruct(config: Config, model: Model) -> int:
    """All slices of a measured scan, a batch at a time."""
    pixels, sampling = config["network"]["size"] ** 2, sampling_of(config, model)
    held = _prediction(config, model, sampling, sampling["batch_size"])
    if sees_counts(model, sampling):  # the scan's own matrix is made first
        held += memory.scan_matrix(config)
    # FBP images, mean and deviation, their check, and the NIfTI file as it is written, 4 each.
    return asked(_libraries(config), held + 20 * SCAN_PLANES * pixels)


def sweep(config: Config, name: str, model: Model) -> int:
    """Some slices of a subject at a time, by each of a sweep's settings, and their metrics."""
    settings, data = config["evaluation"]["sweeps"][name], data_of(config)
    count = min(settings["slices"], data.slices)
    held = max(
        _prediction(config, model, replaced(sampling_of(config, model), changes), count)
        for changes in settings["sampling"]
    )
    return asked(_libraries(config), held + SSIM_BYTES * count * data.pixels)


# --- evaluation --------------------------------------------------------------------------------

SSIM_BYTES = 420
"""Of each pixel: padded images, their products and the filtered five of them, and means in 64 bits.
Measured at 256 x 256: 2078 MB in all for a subject's slices of one rotation."""


def _most_samples(config: Config) -> int:
    """Samples of a slice by the model that has most."""
    return max(sampling_of(config, model)["samples"] for model in models_of(config).values())


def metrics(config: Config) -> int:
    """Images of a volume by one model at a time."""
    data, samples = data_of(config), _most_samples(config)
    # Samples (4), their order against the reference (1 + 1) and what deviations need (4 + 4).
    held = (SSIM_BYTES + 14 * samples) * data.volume_slices * data.pixels
    return asked(NETWORKS_MB, held)


CALIBRATING = 4
"""Validation subjects at most that calibrate intervals."""


def calibrate(config: Config) -> int:
    """Scores of all pixels in the heads of validation subjects, and images of a volume."""
    data = data_of(config)
    # Scores by volumes, and joined, 4 each; at most as many as pixels in the field of view.
    held = 8 * CALIBRATING * data.slices * data.seen
    # Image, deviation and reference (4 each), their difference and score, labels.
    return asked(TORCH_MB, held + 24 * data.volume_slices * data.pixels)


def lesion_metrics(config: Config, subjects: int) -> int:
    """Copies of a slice by one model at a time, and what OSEM + filter has for a threshold."""
    data, lesions = data_of(config), config["lesions"]
    # Samples (4), means (4), and of those without lesions what is wrong (4 + 4); of one image in
    # two all pixels of the brain, by slices, joined and sorted (4 each).
    copies = 2 * lesions["draws"]
    held = (4 * _most_samples(config) + 16) * copies * data.pixels
    slices = config["slices"]["rotations"] * lesions["per_volume"]
    held += 12 * subjects * slices * lesions["draws"] * data.seen
    return asked(NETWORKS_MB, held)


def lesion_curve(config: Config, projector: str) -> int:
    """Images of the copies of a slice by all settings of OSEM's filter, or of MAP."""
    settings = max(len(config["classical"][name]) for name in ("filter_mm", "betas"))
    # By parts and joined, 4 each, and of one part as columns and images.
    held = 16 * settings * 2 * config["lesions"]["draws"] * data_of(config).pixels
    more = NETWORKS_MB - TORCH_MB + held / 1e6
    return memory.classical(config, projector) + round(memory.MARGIN * more)


def images(config: Config) -> int:
    """Rules that draw a few slices: with all samples, on a canvas of 30 MB."""
    return asked(PICTURES_MB, 30e6)


def tables(config: Config) -> int:
    """Rules that make something of the table of metrics, which they read a part at a time."""
    return asked(TABLES_MB, 0)


def figures(config: Config) -> int:
    """Rules that draw tables of sweeps and logs."""
    return asked(FIGURES_MB, 0)


def join_metrics(config: Config) -> int:
    """Tables, copied as text."""
    return asked(PLAIN_MB, 0)
