"""Methods: networks with a training step and a prediction."""
