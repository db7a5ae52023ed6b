"""A base class of ROS nodes that declares and checks its parameters from a table."""

from collections.abc import Mapping, Sequence
import sys
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from tinyllama_ros.ros.parameter_file import describe_unmatched, parameter_files
from tinyllama_ros.ros.parameters import describe_unknown, Parameter

OF_ROS = ('use_sim_time', 'start_type_description_service', 'qos_overrides.')
"""Prefixes of parameters that rclpy itself uses."""


class ParameterMixin(Node):
    """
    Declares a table of parameters, and accepts whole numbers for floats.

    The node must be created with automatically_declare_parameters_from_overrides: only so it can
    see, by rclpy's public interface, which parameters were given.
    """

    _table: Mapping[str, Parameter]

    def declare_table(self, table: Mapping[str, Parameter], *, is_read_only: bool = False) -> None:
        """
        Declare the parameters of a table, and warn of each given parameter that is not in it.

        It is a warning only, because a file may hold parameters of several nodes under `/**`.

        :raises ParameterException: a given value is of another type or out of range.
        """
        self._table = table
        given = {name: parameter for name, parameter in self.get_parameters_by_prefix('').items()
                 if not name.startswith(OF_ROS)}
        for name in given:
            self.undeclare_parameter(name)  # keeps the value for the next declaration
            if name not in table:
                self.get_logger().warning(
                    describe_unknown(name, table, self.get_fully_qualified_name()))
        for name, parameter in table.items():
            descriptor = _descriptor(parameter, is_read_only)
            if name in given and (converted := self._as_float(given[name])) is not given[name]:
                self.declare_parameter(name, converted.value, descriptor, ignore_override=True)
            else:
                self.declare_parameter(name, parameter.default, descriptor)

    def warn_of_files(self, arguments: Sequence[str]) -> None:
        """Warn of each parameter file on the command line that holds nothing for this node."""
        for path in parameter_files(arguments):
            if warning := describe_unmatched(path, self.get_fully_qualified_name()):
                self.get_logger().warning(warning)

    def value(self, name: str) -> Any:
        """Return the value of a parameter."""
        return self.get_parameter(name).value

    def values(self) -> dict[str, Any]:
        """Return the value of every parameter of the table by name."""
        return {name: self.value(name) for name in self._table}

    def set_parameters(self, parameter_list: list[RosParameter]) -> list[SetParametersResult]:
        """Set parameters one by one, as rclpy does."""
        results: list[SetParametersResult] = super().set_parameters(
            [self._as_float(parameter) for parameter in parameter_list])
        return results

    def set_parameters_atomically(self, parameter_list: list[RosParameter]
                                  ) -> SetParametersResult:
        """Set all of the parameters or none, as rclpy does."""
        return super().set_parameters_atomically(
            [self._as_float(parameter) for parameter in parameter_list])

    def _as_float(self, parameter: RosParameter) -> RosParameter:
        """Return a parameter; a whole number as a float if the parameter is a float."""
        entry = self._table.get(parameter.name)
        if entry is None or type(entry.default) is not float or type(parameter.value) is not int:
            return parameter
        return RosParameter(parameter.name, value=float(parameter.value))


class ParameterNode(ParameterMixin):
    """A node with parameters that are read at its start and cannot change."""

    def __init__(self, name: str, table: Mapping[str, Parameter], **options: Any) -> None:
        super().__init__(name, automatically_declare_parameters_from_overrides=True, **options)
        self.declare_table(table, is_read_only=True)
        self.warn_of_files(sys.argv)


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
