// The operators Gate and Norm, which compute each row by itself.

#pragma once

#include <initializer_list>

#include "kernels.h"
#include "onnxruntime_calls.h"

namespace tinyllama_ros {

class GateOperator {
 public:
  static constexpr const char *kName = "Gate";
  static constexpr std::initializer_list<int> kInputs = {kFloat};
  static constexpr std::initializer_list<int> kOutputs = {kFloat};

  GateOperator(const Kernels &kernels, const KernelInfo *) : kernels_(kernels) {}

  void Compute(Context *context) const {
    const Tensor both = Input(context, 0);
    if (both.Columns() % 2)
      throw Failure(kName, ": its input has ", both.Columns(), " columns, an odd number, of which "
                    "gate and up cannot have half each");
    const int64_t width = both.Columns() / 2;
    Shape shape = both.shape;
    shape.back() = width;
    float *y = Output(context, 0, shape);
    ParallelFor(context, both.Rows(), kTokensOfTask, [&](int64_t row) {
      const float *gate = both.As<float>() + row * 2 * width;
      kernels_.gate(gate, gate + width, width, y + row * width);
    });
  }

 private:
  const Kernels &kernels_;
};

class NormOperator {
 public:
  static constexpr const char *kName = "Norm";
  static constexpr std::initializer_list<int> kInputs = {kFloat, kFloat, kFloat};
  static constexpr std::initializer_list<int> kOutputs = {kFloat, kFloat};

  NormOperator(const Kernels &kernels, const KernelInfo *info) : kernels_(kernels) {
    Check(g_api->Attribute(info, "epsilon", &epsilon_));
  }

  void Compute(Context *context) const {
    const Tensor block = Input(context, 0), residual = Input(context, 1);
    const Tensor weight = Input(context, 2);
    const int64_t width = block.Columns(), rows = block.Rows();
    if (residual.shape != block.shape || weight.shape != Shape{width})
      throw Failure(kName, ": block is ", block.shape, ", residual ", residual.shape,
                    " and weight ", weight.shape,
                    ", but they are to be (..., hidden), the same, and (hidden)");
    float *y = Output(context, 0, block.shape), *sum = Output(context, 1, block.shape);
    ParallelFor(context, rows, kTokensOfTask, [&](int64_t row) {
      kernels_.normalize(block.As<float>() + row * width, residual.As<float>() + row * width,
                         weight.As<float>(), width, epsilon_, y + row * width,
                         sum + row * width);
    });
  }

 private:
  const Kernels &kernels_;
  float epsilon_;
};

}  // namespace tinyllama_ros
