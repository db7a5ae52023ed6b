"""Finds models and artifacts on this machine: by path, or by name in the cache folder."""

import os
from pathlib import Path

from tinyllama_ros.artifact.manifest import MANIFEST
from tinyllama_ros.errors import ArtifactError, ConfigError, model_command

CACHE_VARIABLE = 'TINYLLAMA_ROS_CACHE'


def default_cache() -> Path:
    """
    Return $TINYLLAMA_ROS_CACHE, else tinyllama_ros in the user's cache folder.

    :raises ConfigError: the variable is not set, and the user has no home folder.
    """
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own)
    try:
        return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'tinyllama_ros'
    except RuntimeError as error:
        raise ConfigError('this user has no home folder, and HOME is not set; set '
                          f'{CACHE_VARIABLE} to a folder for models') from error


def artifacts_folder() -> Path:
    """Return the folder that holds artifacts by name."""
    return default_cache() / 'artifacts'


def shipped_artifacts() -> list[Path]:
    """Return the folders of named artifacts that were installed with packages of a sourced ROS."""
    prefixes = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    return [Path(prefix, 'share', 'tinyllama_ros', 'models') for prefix in prefixes if prefix]


def find_artifact(model: str) -> Path:
    """
    Return the folder of an artifact.

    :param model: the path of its folder, or its name in the artifacts folder, else the name of one
        that came with the package.
    :raises ArtifactError: there is none; the message lists those that exist.
    """
    try:
        if model and (Path(model).expanduser() / MANIFEST).is_file():
            return Path(model).expanduser()
        places = [artifacts_folder(), *shipped_artifacts()]
        for folder in (place / model for place in places):
            if model and (folder / MANIFEST).is_file():
                return folder
    except (OSError, RuntimeError, ValueError) as error:  # no permission, no such user, a NUL
        raise ArtifactError(f'the model {model!r} cannot be looked up: {error}; give the path of '
                            'an artifact that this user can read') from error
    target = ' --target ascend' if model.endswith('-ascend') else ''
    known = sorted({path.parent.name for place in places
                    for path in place.glob(f'[!.]*/{MANIFEST}')})
    raise ArtifactError(f'there is no artifact {model!r}: neither a folder of that path nor '
                        f'{places[0] / model} holds a {MANIFEST}; here are: '
                        f'{", ".join(known) or "none"}; make the default one with: '
                        f'{model_command()} build smollm2-135m-instruct{target}')
