// The kernels as operators of ONNX Runtime, in the domain tinyllama_ros.
// workbench/graphs/cpu_functions.py says what each computes, and from which inputs.

#include "attention_operator.h"
#include "elementwise_operators.h"
#include "kernels.h"
#include "onnxruntime_abi.h"
#include "onnxruntime_calls.h"
#include "product_operators.h"

namespace tinyllama_ros {
namespace {

// Returns how ONNX Runtime makes, runs and destroys an operator.
template <typename Operator>
CustomOp Describe() {
  CustomOp op = {};
  op.version = kApiVersion;
  op.name = [](const CustomOp *) { return Operator::kName; };
  op.provider = [](const CustomOp *) -> const char * { return nullptr; };
  op.input_type = [](const CustomOp *, size_t i) { return Operator::kInputs.begin()[i]; };
  op.input_count = [](const CustomOp *) { return Operator::kInputs.size(); };
  op.output_type = [](const CustomOp *, size_t i) { return Operator::kOutputs.begin()[i]; };
  op.output_count = [](const CustomOp *) { return Operator::kOutputs.size(); };
  op.input_characteristic = op.output_characteristic = [](const CustomOp *, size_t) { return 0; };
  op.input_memory = [](const CustomOp *, size_t) { return 0; };
  op.first_version = [](const CustomOp *) { return 1; };
  op.last_version = [](const CustomOp *) { return 1; };
  op.create = [](const CustomOp *, const Api *, const KernelInfo *info, void **kernel) {
    return Guarded([&] { *kernel = new Operator(*ChooseKernels(), info); });
  };
  op.compute = [](void *kernel, Context *context) {
    return Guarded([&] { static_cast<Operator *>(kernel)->Compute(context); });
  };
  op.destroy = [](void *kernel) { delete static_cast<Operator *>(kernel); };
  return op;
}

}  // namespace
}  // namespace tinyllama_ros

extern "C" {

// Returns the instruction set that the kernels use on this processor; empty if it has none of them.
__attribute__((visibility("default"))) const char *Instructions() {
  const tinyllama_ros::Kernels *kernels = tinyllama_ros::ChooseKernels();
  return kernels ? kernels->instructions : "";
}

// ONNX Runtime calls this when the library is registered with a session. Where no kernel runs, it
// registers nothing, and ONNX Runtime runs the functions of the graph.
__attribute__((visibility("default"))) tinyllama_ros::Status *RegisterCustomOps(
    tinyllama_ros::SessionOptions *options, const tinyllama_ros::ApiBase *base) {
  using namespace tinyllama_ros;
  static const CustomOp kOperators[] = {
      Describe<GroupedLinear<false>>(), Describe<GroupedLinear<true>>(), Describe<W8A16Product>(),
      Describe<FineProduct>(),          Describe<AttentionOperator>(),   Describe<GateOperator>(),
      Describe<NormOperator>()};
  g_api = base->get(kApiVersion);
  if (!g_api || !ChooseKernels()) return nullptr;
  return Guarded([&] {
    static Domain *const domain = [] {  // sessions point to it until the process ends
      Domain *made;
      Check(g_api->NewDomain("tinyllama_ros", &made));
      for (const CustomOp &op : kOperators) Check(g_api->Add(made, &op));
      return made;
    }();
    Check(g_api->Add(options, domain));
  });
}
}
