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
  op.GetName = [](const CustomOp *) { return Operator::kName; };
  op.GetExecutionProviderType = [](const CustomOp *) -> const char * { return nullptr; };
  op.GetInputType = [](const CustomOp *, size_t i) { return Operator::kInputs.begin()[i]; };
  op.GetInputTypeCount = [](const CustomOp *) { return Operator::kInputs.size(); };
  op.GetOutputType = [](const CustomOp *, size_t i) { return Operator::kOutputs.begin()[i]; };
  op.GetOutputTypeCount = [](const CustomOp *) { return Operator::kOutputs.size(); };
  op.GetInputCharacteristic = op.GetOutputCharacteristic = [](const CustomOp *, size_t) {
    return 0;
  };
  op.GetInputMemoryType = [](const CustomOp *, size_t) { return 0; };
  op.GetStartVersion = [](const CustomOp *) { return 1; };
  op.GetEndVersion = [](const CustomOp *) { return 1; };
  op.CreateKernelV2 = [](const CustomOp *, const Api *, const KernelInfo *info, void **kernel) {
    return Guarded([&] { *kernel = new Operator(*ChooseKernels(), info); });
  };
  op.KernelComputeV2 = [](void *kernel, Context *context) {
    return Guarded([&] { static_cast<Operator *>(kernel)->Compute(context); });
  };
  op.KernelDestroy = [](void *kernel) { delete static_cast<Operator *>(kernel); };
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
  g_api = base->GetApi(kApiVersion);
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
