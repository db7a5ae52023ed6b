"""Explains how to install a missing library; it imports the standard library alone."""

OUR_LIBRARIES = ('aiohttp', 'prompt_toolkit', 'wcwidth')


def advice(error: ImportError) -> str:
    """Return one line that names the missing module and says how to get it."""
    library = (error.name or '').partition('.')[0]
    if library in OUR_LIBRARIES:
        return f'{error}: pip install {library}'
    return (f'{error}: source a ROS 2 (source /opt/ros/jazzy/setup.bash), or install its wheels: '
            "pip install -e '.[ros]'")
