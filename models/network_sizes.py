"""Sizes of the networks, from the configuration alone: planning a job must not import PyTorch.

Weights are those of convolutions and linear layers, without biases, norms and learned keys, which
are few. Activations are the numbers that a training step keeps for its backward pass, layer by
layer: what a layer gives, once for each operation that reads it in the backward pass. C channels,
P positions of one slice at a resolution.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from pipeline.jobs.experiment import Model


class Size(NamedTuple):
    """Numbers that a method's networks consist of and keep.

    Attributes
    ----------
    weights : int
        Of the network that predicts.
    others : int
        Of the networks that are trained beside it, as discriminators.
    kept, recomputed : int
        Activations of a training step, of one slice; and if ``activation_checkpointing`` keeps the
        ends of the stages alone, and those of the stage that it computes again.
    live : int
        The most that exist at one time when the network predicts one slice.
    """

    weights: int
    others: int
    kept: int
    recomputed: int
    live: int


def size_of(config: Mapping[str, Any], model: Model) -> Size:
    """Size of a model's networks, of its own alone and not of the one that it uses frozen.

    Of a method without a formula here, it is counted on the networks themselves, laid out without
    memory: that imports PyTorch, and takes seconds.

    Parameters
    ----------
    config : mapping
        The configuration.
    model : Model
        Of it.

    Raises
    ------
    InputError
        If a method without a formula cannot be laid out so.
    """
    if formula := SIZES.get(model.method):
        return formula(config["network"], model.settings)
    from models.traced_sizes import traced  # which imports PyTorch

    return traced(config, model)


LAYOUTS = 4
"""Copies of a layer's input and output where it predicts many slices: the library of convolutions
has layouts of its own. Measured, of networks with large kernels."""


def feature_numbers(network: Mapping[str, Any]) -> int:
    """Numbers of PnPNet's features of one slice: a tensor a stage, two of the middle."""
    stages = _stages(network)
    _, high, positions = stages[-1]
    return sum(low * positions for low, _, positions in stages) + 2 * high * positions


# --- U-Net -------------------------------------------------------------------------------------


def _stages(network: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """Of each stage: its own C, that of the next, and P."""
    widths = [network["width"] * multiple for multiple in (1, *network["multipliers"])]
    positions = (network["size"] // network["patch"]) ** 2
    return [
        (low, high, positions // 4**stage) for stage, (low, high) in enumerate(pairwise(widths))
    ]


def _unet(network: Mapping[str, Any], channels: int, timed: bool) -> Size:
    """Size of `models.networks.unet.UNet` with so many input channels."""
    width, blocks = network["width"], network["blocks"]
    features = network["heads"] * network["head_dim"]
    time = 4 * width if timed else 0
    patch = network["patch"] ** 2

    def block(into: int, out: int) -> int:
        shortcut = into * out if into != out else 0
        return 9 * into * out + 9 * out * out + shortcut + 2 * time * out

    def attention(count: int) -> int:
        return 4 * features * count

    stages = _stages(network)
    _, top, lowest = stages[-1]
    weights = 49 * channels * patch * width + width * patch + block(2 * width, width)
    weights += time * width + time * time + 2 * block(top, top) + attention(top)
    # A block keeps the outputs of both convolutions and of both norms, attention those of its two
    # norms, of its queries, keys and values, and its own; what is concatenated is a copy.
    kept = [7 * width * stages[0][2], (11 * top + 4 * features) * lowest]
    for stage, (low, high, positions) in enumerate(stages):
        down = 9 if stage == len(stages) - 1 else 4
        weights += blocks * (block(low, low) + block(high + low, high)) + 9 * high * low
        weights += attention(low) + attention(high) + down * low * high
        kept.append((blocks * 4 * low + 3 * low + high) * positions)
        kept.append((blocks * (5 * high + low) + 3 * high + low) * positions)
    # At the end of the way up the first stage's skips, its concatenated input and a block.
    skips = sum(blocks * low * positions for low, _, positions in stages)
    low, high, positions = stages[0]
    live = skips + (3 * low + 5 * high) * positions
    return Size(weights, 0, sum(kept), 2 * skips + max(kept), live)


def _regression_unet(network: Mapping[str, Any], settings: Mapping[str, Any]) -> Size:
    return _unet(network, len(settings["conditioning"]), timed=False)


def _diffusion_unet(network: Mapping[str, Any], settings: Mapping[str, Any]) -> Size:
    return _unet(network, 1 + len(settings["conditioning"]), timed=True)


def _unet_of_an_image(network: Mapping[str, Any], settings: Mapping[str, Any]) -> Size:
    return _unet(network, 2, timed=True)


def _unet_with_features(network: Mapping[str, Any], settings: Mapping[str, Any]) -> Size:
    channels = 1 + len(settings["conditioning"]) + settings["regression_image"]
    size, features = _unet(network, channels, timed=True), feature_numbers(network)
    # The features, what condition dropout leaves of them, and the sums with the network's own.
    return size._replace(
        kept=size.kept + 3 * features,
        recomputed=size.recomputed + 3 * features,
        live=size.live + 2 * features,
    )


# --- the others --------------------------------------------------------------------------------


def _deeppet(network: Mapping[str, Any], settings: Mapping[str, Any]) -> Size:
    """Size of `models.networks.deeppet.DeepPETNetwork`."""
    channels, counts = len(settings["conditioning"]), settings["convolutions"]
    positions = network["size"] ** 2
    weights = kept = live = 0
    way_up = [(stage, 3) for stage in reversed(range(1, len(counts) - 1))]
    way_down = [(stage, {0: 7, 1: 5}.get(stage, 3)) for stage in range(len(counts))]
    for number, (stage, kernel) in enumerate(way_down + way_up):
        out, here = settings["width"] << stage, positions // 4**stage
        weights += kernel**2 * (channels * out + (counts[stage] - 1) * out * out)
        kept += 2 * counts[stage] * out * here  # convolution and norm; the ReLU works in place
        if number >= len(counts):
            kept += channels * here  # doubled
        live = max(live, (channels + LAYOUTS * 3 * out) * here)
        channels = out
    kept += channels * positions
    return Size(weights + 9 * channels, 0, kept, kept, max(live, 2 * channels * positions))


def _gan(network: Mapping[str, Any], settings: Mapping[str, Any]) -> Size:
    """Size of cGAN's and Pix2Pix's generator and, twice in a step, their discriminator."""
    channels, width, blocks = len(settings["conditioning"]), settings["width"], settings["blocks"]
    judge, positions = settings["discriminator_width"], network["size"] ** 2
    weights = 49 * channels * width + 2 * (9 * 2 + 9 * 8) * width**2 + 18 * blocks * 16 * width**2
    others = 16 * ((channels + 1) * judge + (2 + 8 + 32) * judge**2 + 8 * judge)
    # Convolution and norm of each layer; what is padded by reflection is a copy.
    ends = (channels + 2 * width + 2 * 2 * width / 4 + 2 * 4 * width / 16) * positions
    middle = 7 * 4 * width / 16 * blocks * positions
    patches = (1 + 2 * 2 / 4 + 2 * 4 / 16 + 2 * 8 / 16) * judge / 4 * positions
    kept = round(2 * ends + middle + 2 * patches)
    return Size(weights, others, kept, kept, LAYOUTS * 4 * width * positions)


SIZES = {
    "PnPNet": _regression_unet,
    "cDPM": _diffusion_unet,
    "LegoPET": _unet_with_features,
    "PMDM": _unet_of_an_image,
    "DeepPET": _deeppet,
    "cGAN": _gan,
    "Pix2Pix": _gan,
}
"""Formulas by the name of the method in `models.registry.METHODS`."""
