"""What the nodes have in common: how they start, and parameters that come from a table."""

from collections.abc import Callable, Mapping, Sequence
import sys

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
import rclpy
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from tinyllama_ros.errors import ConfigError
from tinyllama_ros.ros.parameters import describe_unknown, Parameter

OF_ROS = ('use_sim_time', 'start_type_description_service', 'qos_overrides.')
"""How the names begin that rclpy looks for by itself."""


def run_in_ros(program: str, run: Callable[[], int], args: Sequence[str] | None) -> int:
    """
    Return the status of a run, for which ROS is up; signals are left to it.

    :param program: what is named in front of an error, which is one line on stderr and status 1.
    """
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # what rclpy raises on arguments that it cannot read
        print(f'{program}: {error}', file=sys.stderr)
        return 1
    try:
        return run()
    except (ConfigError, ParameterException) as error:
        print(f'{program}: {error}', file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()


def declare_parameters(node: Node, parameters: Mapping[str, Parameter], *,
                       is_read_only: bool = False) -> None:
    """
    Declare a table of parameters, and warn of each value that was given for none of them.

    A warning and not a refusal: a file may hold under `/**` what is meant for several nodes.

    :param node: was made with automatically_declare_parameters_from_overrides, which is the one
        public way to learn what was given.
    :raises ParameterException: a given value is of another type or out of range.
    """
    given = [name for name in node.get_parameters_by_prefix('') if not name.startswith(OF_ROS)]
    for name in given:
        node.undeclare_parameter(name)  # the value is kept, for who declares it
        if name not in parameters:
            node.get_logger().warning(
                describe_unknown(name, parameters, node.get_fully_qualified_name()))
    for name, parameter in parameters.items():
        node.declare_parameter(name, parameter.default, _descriptor(parameter, is_read_only))


def _descriptor(parameter: Parameter, is_read_only: bool) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=parameter.description, read_only=is_read_only)
    if parameter.range is not None:
        low, high = parameter.range
        if isinstance(parameter.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(low), to_value=float(high))]
        else:
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
    return descriptor
