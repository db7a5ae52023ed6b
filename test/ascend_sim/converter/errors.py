"""What atc says when it fails. Source: GE, base/common/error_registry/error_registry.cc."""

_TEXTS = {
    'E10001': 'Value {} for parameter {} is invalid. Reason: {}',
    'E10002': 'Value {} for parameter --input_shape is invalid. Reason: {}. The value must be '
              'formatted as {}.',
    'E10007': '--{} is required. The value must be {}.',
    'E10009': '--dynamic_batch_size, --dynamic_image_size, --input_shape_range, and '
              '--dynamic_dims are mutually exclusive.',
    'E10010': 'Value {} for parameter --log is invalid.',
    'E10011': 'Value {} for parameter --input_shape is invalid. Shape values must be positive '
              'integers. The error value in the shape is {}.',
    'E10016': 'Op name {} specified in --{} is not found in the model. Confirm whether this node '
              "name exists, or whether the node is not split with the specified delimiter ';'.",
    'E10035': '--dynamic_batch_size, --dynamic_image_size, or --dynamic_dims has {} profiles, '
              'which is less than the minimum {}.',
    'E10036': '--dynamic_batch_size, --dynamic_image_size, or --dynamic_dims has {} profiles, '
              'which is greater than the maximum {}.',
    'E10037': 'The profiles configured in --dynamic_batch_size, --dynamic_image_size, or '
              '--dynamic_dims have inconsistent dimension counts. A profile has {} dimensions '
              'while another has {} dimensions.',
    'E10038': 'Dimension size {} is invalid. The value must be greater than 0.',
    'E10039': 'The --dynamic_batch_size, --dynamic_image_size, or --dynamic_dims argument has '
              'duplicate profiles.',
    'E10040': 'As the --dynamic_batch_size, --dynamic_image_size, or --dynamic_dims argument is '
              'included, the corresponding nodes specified in --input_shape must have -1 axes '
              "and cannot have '~'.",
    'E10041': 'Failed to load the model from {}.',
    'E10045': 'The number of -1 axes in the --input_shape argument exceeds the dimension count '
              'per profile in --dynamic_dims.',
    'E10049': 'Dimension count {} configured in --input_shape does not match dimension count {} '
              'of the node.',
    'E10054': 'The required parameter {} for ATC is empty. Another possible reason is that the '
              'values of some parameters are not enclosed by quotation marks ("").',
    'E10055': 'The operation is not supported. Reason: {}.',
    'E10501': 'IR for Op {} with optype {} is not registered.',
    'E13001': 'Failed to open file {}. Reason: {}.',
    'E13003': 'Failed to read file {}. Reason: {}.',
    'E13004': 'Failed to write file {}. Reason: {}.',
    'E13023': 'Model {} has a size of {} bytes, which exceeds system limit of {} bytes.',
    'E16002': 'No ONNX parser is registered for optype {}.',
    'E16004': 'ONNX model has no graph.',
    'E16005': 'The model has {} --domain_version fields, but only one is allowed.',
    'E19999': 'Inner Error! {}',
    'W11001': 'Op {} does not hit the high-priority operator information library, which might '
              'result in compromised performance.',
}


class AtcError(Exception):
    """One error or several of one conversion, in the words of the real program."""

    def __init__(self, code: str, *values: object) -> None:
        self.lines = [message(code, *values)]
        super().__init__(self.lines[0])

    def also(self, code: str, *values: object) -> 'AtcError':
        """Add a further error."""
        self.lines.append(message(code, *values))
        return self


def message(code: str, *values: object) -> str:
    """Return a code with its text."""
    return f'{code}: {_TEXTS[code].format(*(f"[{value}]" for value in values))}'
