"""Weights of a small model."""

from helpers.small_models import NETWORK, settings
from models import checkpoints
from models.checkpoints import Metadata
from models.dataset import Scales
from models.registry import build

CONFIG = settings()

SCALES = Scales(100.0, 200.0)


def saved(path, name="PnPNet", scales=SCALES, frozen_sha256=None, model=None):
    own = CONFIG["methods"][name]
    method = build(name, NETWORK, own)
    metadata = Metadata(model or name, name, CONFIG["network"], own, 7, scales, 5, 2, frozen_sha256)
    checkpoints.save(path, method.network, None, metadata)
    return method, metadata
