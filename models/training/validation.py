"""How good the images of some validation slices are while a model is trained."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from models import metrics
from models.dataset import ShardSlices
from models.devices import combined, to_device
from models.loader import batches, in_order
from models.methods.base import Method, check_finite
from models.settings import Settings
from models.training.parts import Parts

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Validation:
    """Mean PSNR and SSIM over a fixed, evenly spaced subset of the validation slices.

    Parameters
    ----------
    slices : ShardSlices
        Of the validation split; without any, nothing is measured.
    method : Method
    parts : Parts
        The method's networks.
    settings : Settings
    batch_size : int
        Slices at a time.
    fabric : Fabric
        Devices, each of which takes its share of the slices.
    """

    def __init__(
        self,
        slices: ShardSlices,
        method: Method,
        parts: Parts,
        settings: Settings,
        batch_size: int,
        fabric: "Fabric",
    ):
        self._slices, self._method, self._parts = slices, method, parts
        self._training, self._seed = settings.training, settings.model.seed
        self._batch_size, self._fabric = batch_size, fabric

    @torch.no_grad()
    def measure(self, folder: Path, step: int) -> dict[str, float]:
        """Measure the weights as they are, and their moving average if there is one.

        Parameters
        ----------
        folder : Path
            Of the run, for errors.
        step : int
            After which.

        Returns
        -------
        dict
            ``validation_psnr_db`` and ``validation_ssim``, and the same of ``validation_ema``.

        Raises
        ------
        InputError
            If a pixel is not finite.
        """
        if not len(self._slices):
            return {}
        network = self._method.network
        found = self._measure(network, "validation", folder, step)
        if self._parts.averaged is not None:
            averaged = self._parts.averaged.module
            found |= self._measure(averaged, "validation_ema", folder, step)
        self._method.network = network
        return found

    def _measure(self, network: nn.Module, name: str, folder: Path, step: int) -> dict[str, float]:
        self._method.network = network.eval()
        chosen = self._slices.evenly_spaced(self._training.validation_slices)
        mine = chosen[self._fabric.global_rank :: self._fabric.world_size]
        sums = {"psnr_db": 0.0, "ssim": 0.0}
        for batch in batches(self._slices, in_order(mine, self._batch_size), 0, False):
            inputs, references, keys = to_device(batch, self._fabric)
            with self._fabric.autocast():
                images = self._method.reconstruct(
                    inputs, keys, self._training.validation_sampling, self._seed
                )
            check_finite(images, keys, f"{folder}: {name} after step {step}")
            images = images.float().mean(dim=1, keepdim=True)
            sums["psnr_db"] += float(metrics.psnr_db(images, references).sum())
            sums["ssim"] += float(metrics.ssim(images, references).sum())
        totals = combined(sums, self._fabric)
        return {f"{name}_{key}": total / len(chosen) for key, total in totals.items()}
