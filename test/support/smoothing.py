"""Checkpoints to smooth."""

import numpy as np

from tinyllama_ros.workbench.quantization.smooth import (
    groups,
    SmoothedCheckpoint,
)


def random_scales(architecture, seed=0):
    """Return scales for every group, the largest some twenty times the smallest."""
    random, shapes = np.random.default_rng(seed), architecture.weight_shapes()
    return {group.path: np.exp(random.uniform(-1.5, 1.5, shapes[group.source][0]), dtype='f4')
            for group in groups(architecture)}




def with_outliers(checkpoint):
    """Return a checkpoint of the same function, every 16th activation 50 times what it was."""
    shapes = checkpoint.architecture.weight_shapes()
    return SmoothedCheckpoint(checkpoint, {
        group.path: np.where(np.arange(shapes[group.source][0]) % 16, 1, 1 / 50).astype('f4')
        for group in groups(checkpoint.architecture)})
