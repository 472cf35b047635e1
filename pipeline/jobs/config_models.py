"""Check of what the configuration says of networks, models and their evaluation.

What cannot be trained is refused here, in seconds, and not after all data are made.
"""

import difflib
from collections.abc import Mapping
from typing import Any

import pywt

from pipeline.jobs.config_sweeps import check_sweeps
from pipeline.jobs.experiment import (
    Model,
    frozen_setting,
    models_of,
    replaced,
    sampling_of,
    sees_counts,
)
from pipeline.jobs.noise import check_schedule
from pipeline.sources.subjects import Subject
from pipeline.storage.errors import InputError
from pipeline.tomography.physics import SEEN
from pipeline.tomography.scanners import scanner_from

STEM_REACH = 4
"""Pixels from the middle of the U-Net's first kernel, 7 x 7, to its end, both included.

Weights that no pixel of a smaller image meets have a gradient of 0, but in bfloat16 oneDNN gives
whatever stood in memory (PyTorch 2.13, on a CPU with AVX-512 BF16: 768 channels of 2 x 2 pixels).
"""


def check_models(
    config: Mapping[str, Any], schema: Mapping[str, Any], subjects: Mapping[str, Subject]
) -> None:
    """Refuse networks that cannot be built or trained, and models that do not exist or fit.

    Parameters
    ----------
    config : mapping
        The configuration, of valid types and limits.
    schema : mapping
        Its schema. Sections of methods say ``batch_norm`` where networks normalise by the
        statistics of the batch; settings, by a name of `CHECKS`, the ``check`` that they need,
        those that name a model to use ``frozen``, of which methods it may be, those by which
        networks see an image of their own ``gives_image``, and ``residual``, which channels are
        ``images`` that it takes one of, if it takes one.
    subjects : mapping of name to Subject
        Its table of subjects.

    Raises
    ------
    InputError
        Naming the key, its value and the remedy.
    """
    models = models_of(config)
    _check_network(config, models)
    for name, model in models.items():
        _check_frozen(_where(name, config), model, schema, models)
        _check_sampling(model, config)
        _check_target(_where(name, config), model, config)
        _check_residual(_where(name, config), model, schema)
        properties = schema["properties"]["methods"]["properties"][model.method]["properties"]
        for setting in properties.values():
            if check := setting.get("check"):
                CHECKS[check](_where(name, config), model.settings, config, subjects)
    _check_evaluation(config, models)
    check_sweeps(config, models)
    _check_devices(config, schema, models)


def _check_evaluation(config: Mapping[str, Any], models: Mapping[str, Model]) -> None:
    """Models that are to be evaluated must exist and fit."""
    evaluation = config["evaluation"]
    sampling = [name for name, model in models.items() if "timesteps" in model.settings]
    images = ["osem", "osem_input", "fbp", *models]
    for where, names, known in (
        ("evaluation.models", evaluation["models"], list(models)),
        ("evaluation.uncertainty", [evaluation["uncertainty"]], ["", *sampling]),
        *(
            (f"evaluation.sweeps.{sweep}.models", settings["models"], sampling)
            for sweep, settings in evaluation["sweeps"].items()
        ),
        *(
            (f"scans.{scan}.images", settings.get("images", []), images)
            for scan, settings in config["scans"].items()
        ),
    ):
        for name in names:
            if name not in known:
                raise InputError(
                    where,
                    f"names {name!r}, which is no model for this",
                    f"choose from {', '.join(filter(None, known))}, or add it to variants",
                )
    shown = models.get(evaluation["uncertainty"])
    if shown and sampling_of(config, shown)["samples"] < 2:
        of = f"variants.{shown.name}." if "samples" in shown.sampling else ""
        raise InputError(
            "evaluation.uncertainty",
            f"is {shown.name}, and {of}sampling.samples is 1: nothing varies",
            f"set {of}sampling.samples to 2 or more (8, say), or evaluation.uncertainty to ''",
        )
    if evaluation["uncertainty"] not in ("", *evaluation["models"]):
        raise InputError(
            "evaluation.uncertainty",
            f"is {evaluation['uncertainty']}, which is not among evaluation.models",
            "add it there",
        )
    for name in evaluation["sweeps"]["epochs"]["models"]:
        every, epochs = (models[name].settings[key] for key in ("keep_every_epochs", "epochs"))
        if not 0 < every <= epochs:
            raise InputError(
                "evaluation.sweeps.epochs.models",
                f"names {name}, whose keep_every_epochs is {every} of {epochs}: none is kept",
                f"set keep_every_epochs of {name} to 1 to {epochs}, or take it out",
            )


def _check_frozen(
    where: str, model: Model, schema: Mapping[str, Any], models: Mapping[str, Model]
) -> None:
    """A network that is used frozen must be of a method for that, and see the same."""
    setting = frozen_setting(schema["properties"]["methods"]["properties"][model.method])
    if setting is None:
        return
    wanted, giving = model.settings[setting.key], " or ".join(setting.methods)
    frozen = models.get(wanted)
    if frozen is None or frozen.method not in setting.methods:
        raise InputError(
            f"{where}.{setting.key}",
            f"{wanted!r} is not {giving}, nor a variant",
            f"name {giving}, or a variant",
        )
    if frozen.settings["conditioning"] != model.settings["conditioning"]:
        raise InputError(
            f"{where}.{setting.key}",
            f"{wanted} sees {frozen.settings['conditioning']}, and {model.name} "
            f"{model.settings['conditioning']}",
            "give both the same conditioning, in the same order",
        )


def _check_target(where: str, model: Model, config: Mapping[str, Any]) -> None:
    """A network must not see what it is to give."""
    iterations, target = config["osem_input"]["iterations"], config["training"]["target"]
    seen = "osem_input" in model.settings["conditioning"] and 1 in config["simulation"]["doses"]
    plain = config["osem_input"]["filter_mm"] == 0 and iterations == config["osem"]["iterations"]
    if seen and target == "osem" and plain:
        raise InputError(
            f"{where}.conditioning",
            f"has osem_input, which with all counts and {iterations} iterations is the reference "
            "that networks are to give",
            "train towards the truth (training.target: activity), give lower simulation.doses "
            "alone, or other osem_input.iterations, or a filter",
        )


def _check_residual(where: str, model: Model, schema: Mapping[str, Any]) -> None:
    """Whoever gives a difference must see an image, unless its method makes one."""
    own = schema["properties"]["methods"]["properties"][model.method]["properties"]
    images, seen = own["residual"].get("images"), model.settings["conditioning"]
    made = any(model.settings[key] for key, setting in own.items() if setting.get("gives_image"))
    if model.settings["residual"] and images and not made and not {*seen} & {*images}:
        raise InputError(
            f"{where}.residual",
            f"is true, and the conditioning {seen} has no image to differ from",
            f"add {' or '.join(images)} to the conditioning, or set residual to false"
            + "".join(f", or {key} to true" for key in own if own[key].get("gives_image")),
        )


def _check_sampling(model: Model, config: Mapping[str, Any]) -> None:
    """Steps must divide those of training, and consistency begin before the last of them."""
    name, settings = model.name, model.settings
    sweeps = config["evaluation"]["sweeps"].items()
    own = sampling_of(config, model)
    asked = [
        (f"variants.{name}.sampling" if model.sampling else "sampling", own),
        *(
            (f"evaluation.sweeps.{sweep}.sampling", replaced(own, entry))
            for sweep, found in sweeps
            if name in found["models"]
            for entry in found["sampling"]
        ),
    ]
    for where, sampling in asked:
        if "timesteps" in settings:
            _check_pairs(where, sampling)
        start, steps = sampling["consistency"]["start"], sampling["steps"]
        if sees_counts(model, sampling) and start > (steps - 1) / steps:
            raise InputError(
                f"{where}.consistency.start",
                f"{start} leaves none of {steps} steps with consistency",
                f"choose at most {(steps - 1) / steps:.4g}, or consistency.steps of 0",
            )
    validation = config["training"]["validation_sampling"]
    if "timesteps" in settings:
        _check_pairs("training.validation_sampling", validation)
    asked.append(("training.validation_sampling", validation))
    for where, sampling in asked:
        steps = sampling["steps"]
        if settings.get("timesteps", steps) % steps:
            raise InputError(
                f"{where}.steps",
                f"{steps} does not divide the {settings['timesteps']} timesteps of {name}",
                f"choose a divisor of {settings['timesteps']}",
            )


def _check_pairs(where: str, sampling: Mapping[str, Any]) -> None:
    """Antithetic samples come in pairs, and by samplers that draw nothing but their start."""
    if not sampling["antithetic"] or sampling["samples"] == 1:
        return
    sampler, eta = sampling["sampler"], sampling["eta"]
    if sampling["samples"] % 2:
        raise InputError(
            f"{where}.samples",
            f"{sampling['samples']} antithetic samples are no pairs",
            "choose an even number, or set sampling.antithetic to false",
        )
    if sampler == "ddpm" or (sampler == "ddim" and eta > 0):
        noisy = f"{sampler} with an eta of {eta}" if sampler == "ddim" else sampler
        raise InputError(
            f"{where}.sampler",
            f"is {noisy}, which adds noise at each step: samples would not be antithetic",
            "choose dpm-solver++, or ddim with an eta of 0, or set sampling.antithetic to false",
        )


def _check_network(config: Mapping[str, Any], models: Mapping[str, Model]) -> None:
    """Contradictions between the networks and the images and sinograms that they see."""
    ring = scanner_from(config["scanner"])
    size, stages = config["network"]["size"], len(config["network"]["multipliers"])
    patch = config["network"]["patch"]
    if size != config["slices"]["size"]:
        raise InputError(
            "network.size",
            f"{size} differs from the images' {config['slices']['size']} pixels (slices.size)",
            "give both the same value",
        )
    channels = {name for model in models.values() for name in model.settings["conditioning"]}
    longest = max(ring.views, ring.radial_bins)
    if channels - {*SEEN} and size < longest:
        raise InputError(
            "network.size",
            f"{size} is less than the sinograms' {ring.views} views x {ring.radial_bins} radial "
            "bins",
            f"choose at least {longest}, a larger scanner.radial_trim, or images alone for all "
            "methods (conditioning: [osem_input])",
        )
    if size % (patch * 2 ** (stages - 1)):
        raise InputError(
            "network.patch" if size % patch else "network.multipliers",
            f"{stages} stages halve {size} pixels in patches of {patch} {stages - 1} times, "
            "which leaves a remainder",
            f"choose a size that {patch * 2 ** (stages - 1)} divides, or fewer stages",
        )
    if size < STEM_REACH * patch:
        raise InputError(
            "network.patch",
            f"{patch} pixels leave {size // patch} x {size // patch} patches of {size} x {size} "
            "pixels: less than the first convolution's kernel reaches to one side",
            f"choose at most {size // STEM_REACH}",
        )
    if size % 4 or size < 24:
        raise InputError(
            "network.size",
            f"{size} does not suit the adversarial networks (cGAN, Pix2Pix)",
            "choose a multiple of 4, at least 24",
        )
    averaged = [("sampling", config["sampling"])]
    averaged += [(f"variants.{name}.sampling", m.sampling) for name, m in models.items()]
    for where, sampling in averaged:
        if sampling.get("weights") != "ema" or config["training"]["ema_decay"]:
            continue
        raise InputError(
            f"{where}.weights",
            "is ema, and training.ema_decay is 0: there is no moving average",
            "set training.ema_decay, e.g. to 0.9999, or sampling.weights to raw",
        )


def _where(name: str, config: Mapping[str, Any]) -> str:
    """Name a model's section."""
    return f"{'methods' if name in config['methods'] else 'variants'}.{name}"


def _check_wavelet(
    where: str,
    settings: Mapping[str, Any],
    config: Mapping[str, Any],
    _subjects: Mapping[str, Subject],
) -> None:
    """The wavelet must exist, and the image be large enough for its levels."""
    wavelet, levels, size = settings["wavelet"], settings["levels"], config["network"]["size"]
    known = pywt.wavelist(kind="discrete")  # type: ignore[attr-defined]
    if wavelet not in known:
        nearest = difflib.get_close_matches(wavelet, known, n=3, cutoff=0.0)
        raise InputError(
            f"{where}.wavelet",
            f"{wavelet!r} is no discrete wavelet of PyWavelets",
            f"did you mean {' or '.join(nearest)}?",
        )
    most = most_levels(wavelet, size)
    if levels > most:
        raise InputError(
            f"{where}.levels",
            f"{levels} levels of {wavelet} are more than an image of {size} x {size} has: {most}",
            f"choose at most {most}" if most else "choose a shorter wavelet, such as haar",
        )


def most_levels(wavelet: str, size: int) -> int:
    """Count the levels of a wavelet transform whose border is mirrored, as ``ptwt`` does it.

    Each level pads ``size`` pixels by the wavelet's length - 2, and by one more if they are odd,
    at an end; mirroring gives fewer than ``size``. It leaves (size + length - 1) // 2 pixels.
    """
    length = pywt.Wavelet(wavelet).dec_len  # type: ignore[attr-defined]
    levels = 0
    while length - 2 + size % 2 < size:
        size, levels = (size + length - 1) // 2, levels + 1
    return levels


def _check_encoder(
    where: str,
    settings: Mapping[str, Any],
    config: Mapping[str, Any],
    subjects: Mapping[str, Subject],
) -> None:
    """DeepPET's stages must suit the image, and its batch norms have values to average."""
    size, stages = config["network"]["size"], len(settings["convolutions"])
    factor = 2 ** (stages - 1)
    if size % factor:
        raise InputError(
            f"{where}.convolutions",
            f"{stages} stages halve {size} pixels {stages - 1} times, which leaves a remainder",
            f"choose a size that {factor} divides, or fewer stages",
        )
    count, batch = _training_slices(config, subjects), settings["batch_size"]
    if size == factor and 1 in (batch, count % batch):
        raise InputError(
            f"{where}.convolutions",
            f"{stages} stages leave a single pixel of {size} x {size}, and batches of {batch} a "
            f"single one of {count} training slices: batch norm has nothing to average",
            "choose fewer stages, or a batch_size (2 or more) whose last batch has 2 slices or "
            "more",
        )


def _check_noise(
    where: str,
    settings: Mapping[str, Any],
    _config: Mapping[str, Any],
    _subjects: Mapping[str, Subject],
) -> None:
    check_schedule(where, settings)


CHECKS = {"wavelet": _check_wavelet, "encoder": _check_encoder, "noise schedule": _check_noise}
"""Of settings whose limits depend on others, by what their schema calls it."""


def _training_slices(config: Mapping[str, Any], subjects: Mapping[str, Subject]) -> int:
    training = sum(subject.split == "train" for subject in subjects.values())
    return training * config["slices"]["rotations"] * config["slices"]["per_volume"]


def _check_devices(
    config: Mapping[str, Any], schema: Mapping[str, Any], models: Mapping[str, Model]
) -> None:
    """Several processes on the CPU cannot share the statistics of batch norms."""
    evaluation, training = config["evaluation"], config["training"]
    if training["device"] != "cpu" or training["devices"] == 1:
        return
    methods = schema["properties"]["methods"]["properties"]
    for name in evaluation["models"]:
        if methods[models[name].method].get("batch_norm"):
            raise InputError(
                "training.devices",
                f"is {training['devices']} on the CPU, where the batch norms of {name} cannot "
                "share their statistics",
                "train on one device or on GPUs, or take the model out of evaluation.models",
            )
