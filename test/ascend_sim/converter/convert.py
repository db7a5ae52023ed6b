"""From an ONNX file to what our acl loads."""

import os
from pathlib import Path

from acl import container
from acl.graphs import element_types, GraphError
from acl.plan import make_plan, numpy_type, real_inputs, shape_of
from acl.rewrite import embed_small_constants, rewrite
import onnx

from converter.errors import AtcError
from converter.operators import check_known, check_operators
from converter.options import Options

_SECTION_LIMIT = 2**32 - 1


def convert(options: Options) -> list[str]:
    """Write the .om and return warnings; raises AtcError as the real program fails."""
    source = Path(options.model)
    model = _read(source)
    shapes = _check_shapes(model, options)
    _check_weights(model, source.parent)
    check_known(model)
    try:
        embed_small_constants(model, source.parent)
        original = onnx.ModelProto()
        original.CopyFrom(model)
        rewrite(model)
        warnings = check_operators(original, element_types(model))
        plan = make_plan(model, shapes, options.gears, options.kind,
                         soc_version=options.soc_version, precision_mode=options.precision_mode,
                         input_format=options.input_format)
    except GraphError as error:
        raise AtcError('E19999', error) from None
    if plan.weight_size > _SECTION_LIMIT:
        raise AtcError('E13023', 'weight', plan.weight_size, _SECTION_LIMIT)
    _write(Path(f'{options.output}.om'), model, source.parent, plan)
    return warnings


def _read(source: Path) -> onnx.ModelProto:
    try:
        data = source.read_bytes()
    except OSError as error:
        raise AtcError('E13001', source, error.strerror) from None
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception:  # protobuf's errors, by implementation
        raise AtcError('E10041', source) from None
    if not model.graph.node:
        raise AtcError('E16004')
    return model


def _check_shapes(model: onnx.ModelProto, options: Options) -> dict[str, tuple[int, ...]]:
    """Return the shape of every input, in the order of the graph."""
    inputs = {value.name: value for value in real_inputs(model.graph)}
    for name, shape in options.shapes.items():
        if name not in inputs:
            raise AtcError('E10016', name, 'input_shape')
        rank = len(shape_of(inputs[name]))
        if len(shape) != rank:
            raise AtcError('E10049', len(shape), rank)
    shapes = {}
    for name, value in inputs.items():
        shapes[name] = options.shapes.get(name, shape_of(value))
        if -1 in shapes[name] and name not in options.shapes:
            raise AtcError('E10001', name, 'input_shape', 'this input of the model has no fixed '
                           'shape: give one, this chip has no dynamic shapes')
        try:
            numpy_type(value.type.tensor_type.elem_type)
        except GraphError as error:
            raise AtcError('E19999', f'{name}: {error}') from None
    return shapes


def _check_weights(model: onnx.ModelProto, folder: Path) -> None:
    for tensor in model.graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if not place:
            continue
        path = folder / place.get('location', '')
        try:
            size = path.stat().st_size
        except OSError as error:
            raise AtcError('E13001', path, error.strerror) from None
        end = int(place.get('offset', 0)) + int(place.get('length', 0))
        if end > size:
            raise AtcError('E13003', path, f'{tensor.name} ends at {end}, the file at {size}')


def _write(target: Path, model: onnx.ModelProto, folder: Path, plan: object) -> None:
    part = target.with_name(f'{target.name}.{os.getpid()}')
    try:
        container.write(part, model, folder, plan)  # type: ignore[arg-type]
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise AtcError('E13004', target, error) from None
