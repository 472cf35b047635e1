"""First weights that differ from PyTorch's."""

from torch import nn


def initialise(module: nn.Module) -> None:
    """Draw one module's weights as Isola et al. (2017): N(0, 0.02), of batch norms N(1, 0.02).

    Biases are zero. Draws come from PyTorch's global random numbers.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
        mean = 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0
        nn.init.normal_(module.weight, mean, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def begin_at_zero(network: nn.Module) -> None:
    """Set a network's last convolution to zero: it begins by giving zeros, whatever it sees."""
    kinds = nn.Conv2d | nn.ConvTranspose2d
    convolutions = [module for module in network.modules() if isinstance(module, kinds)]
    for parameter in convolutions[-1].parameters():
        nn.init.zeros_(parameter)
