"""Learned reconstruction: networks, training, sampling, evaluation, figures."""
