"""Draws the loss of a model at each position of its windows."""

from pathlib import Path

import matplotlib
import matplotlib.figure
import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.artifact.disk import replacing
from tinyllama_ros.commands.perplexity import Loss
from tinyllama_ros.errors import ConfigError

BANDS = 64
"""Maximum number of bands in which positions are averaged, to reduce the noise."""


def check_plot(path: Path) -> None:
    """
    Check, before anything is measured, that the plot can be written.

    :raises ConfigError: the file extension is not that of a picture, or the folder is missing.
    """
    kinds = matplotlib.figure.Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise ConfigError(f'{path} has no known file extension of a picture; use one of '
                          f'{", ".join(sorted(kinds))}')
    if not path.absolute().parent.is_dir():
        raise ConfigError(f'the folder {path.absolute().parent} for the plot does not exist; '
                          'create it')


def plot(loss: Loss, title: str, path: Path) -> None:
    """
    Draw the mean loss of each position over all windows, with two standard errors around it.

    :raises ConfigError: the picture cannot be written.
    """
    position, mean, error = bands(loss.of_positions)
    figure = matplotlib.figure.Figure(figsize=(7, 4), layout='constrained')
    axes = figure.subplots()
    axes.fill_between(position, mean - 2 * error, mean + 2 * error, alpha=0.25, linewidth=0)
    axes.plot(position, mean, label='mean of each band, ± 2 standard errors')
    axes.axhline(loss.mean, linestyle='--', color='0.4',
                 label=f'all positions: {loss.mean:.3f} nats, perplexity {loss.perplexity:.2f}')
    axes.set(title=title, xlabel='position in the window (tokens)',
             ylabel='loss (nats per token)', xlim=(0, loss.of_positions.shape[1]))
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        with replacing(path) as part:
            figure.savefig(part, dpi=120)
    except OSError as error_:
        raise ConfigError(f'the plot {path} cannot be written: {error_}') from error_


def bands(losses: NDArray[np.float64]
          ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """
    Return middle position, mean loss and its standard error of each band of positions.

    :param losses: (windows, positions); the standard error is as if tokens were independent.
    """
    parts = np.array_split(losses, min(BANDS, losses.shape[1]), axis=1)
    ends = np.cumsum([part.shape[1] for part in parts])
    middles = np.array([end - (part.shape[1] + 1) / 2 for end, part in zip(ends, parts,
                                                                          strict=True)])
    return (middles, np.array([part.mean() for part in parts]),
            np.array([part.std() / part.size ** 0.5 for part in parts]))
