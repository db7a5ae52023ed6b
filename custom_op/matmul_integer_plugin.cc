// Teaches ATC's ONNX parser MatMulInteger: it becomes BatchMatMulV2, int8 x int8 -> int32.
//
// The parser looks an operator up under the model's opset, hence one name for each. Nothing has to
// be translated, every attribute of BatchMatMulV2 keeps its default, so the callback that is given
// operators and not protobuf messages does. MatMulInteger's zero points have no counterpart: they
// would land on BatchMatMulV2's bias, so a graph must leave them out.

#include <vector>

#include "register/register.h"

namespace domi {
namespace {

Status KeepDefaults(const ge::Operator &, ge::Operator &) { return SUCCESS; }

// Toolkits were built with either of libstdc++'s two ABIs, whose std::string differ. None passes
// here: of each call this is the overload that takes const char * or ge::AscendString.
REGISTER_CUSTOM_OP("BatchMatMulV2")
    .FrameworkType(ONNX)
    .OriginOpType(std::vector<ge::AscendString>{
        ge::AscendString("ai.onnx::8::MatMulInteger"),
        ge::AscendString("ai.onnx::9::MatMulInteger"),
        ge::AscendString("ai.onnx::10::MatMulInteger"),
        ge::AscendString("ai.onnx::11::MatMulInteger"),
        ge::AscendString("ai.onnx::12::MatMulInteger"),
        ge::AscendString("ai.onnx::13::MatMulInteger"),
        ge::AscendString("ai.onnx::14::MatMulInteger"),
        ge::AscendString("ai.onnx::15::MatMulInteger"),
        ge::AscendString("ai.onnx::16::MatMulInteger"),
        ge::AscendString("ai.onnx::17::MatMulInteger"),
        ge::AscendString("ai.onnx::18::MatMulInteger")})
    .ParseParamsByOperatorFn(KeepDefaults)
    .ImplyType(ImplyType::TVM);

}  // namespace
}  // namespace domi
