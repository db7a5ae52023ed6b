"""An environment in which the ROS 2 of this one, maybe from wheels, is sourced."""

import os
from pathlib import Path
import sys
import sysconfig

PACKAGES = Path(sysconfig.get_path('purelib'))
# This environment's wheels of ROS 2, as if they were sourced.
SOURCED = os.environ | {
    'ROS_DISTRO': os.environ.get('ROS_DISTRO', 'jazzy'),
    'PYTHONPATH': os.pathsep.join([str(PACKAGES), os.environ.get('PYTHONPATH', '')]),
    'LD_LIBRARY_PATH': os.pathsep.join([
        f'{sys.prefix}/lib', *map(str, PACKAGES.glob('*.libs')),
        *map(str, Path(sys.prefix, 'lib').glob('*.libs')),
        os.environ.get('LD_LIBRARY_PATH', '')])}
