"""What every test stands on."""

import os

from hypothesis import settings

from tinyllama_ros.engine.host import prefer_plain_attention, turn_off_telemetry

turn_off_telemetry()  # also of what tests import and start
prefer_plain_attention()  # as every program does that opens the CPU backend
settings.register_profile('loaded machine', deadline=None)  # a slow example is not a fault
settings.load_profile('loaded machine')
# Before rclpy starts: a domain of this run's own, on this machine only, so that no robot in the
# network and no other run of the tests takes part; each worker of pytest-xdist has one of its own.
# 0 to 101 are safe on every platform.
if 'PYTEST_XDIST_WORKER' in os.environ or 'ROS_DOMAIN_ID' not in os.environ:
    os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 101)
if os.environ.get('ROS_DISTRO') == 'humble':
    os.environ.setdefault('ROS_LOCALHOST_ONLY', '1')
else:
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
# Tests kill nodes; one that dies with a lock of the shared memory between them would leave the
# others waiting for ever.
os.environ.setdefault('FASTDDS_BUILTIN_TRANSPORTS', 'UDPv4')
# Memory that nobody wrote is NaN on the simulated board, so that a program of ours that relies on
# zeros fails. Programs of the simulator's other users start from zeros, as they do on most boards.
os.environ.setdefault('ASCEND_SIM_FILL', '255')
