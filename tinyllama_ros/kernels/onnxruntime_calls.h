// ONNX Runtime's interface in C++: exceptions in place of statuses, tensors with a shape, threads.

#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "onnxruntime_abi.h"

namespace tinyllama_ros {

inline const Api *g_api = nullptr;  // set when the library is registered

using Shape = std::vector<int64_t>;

inline std::ostream &operator<<(std::ostream &out, const Shape &shape) {
  out << "(";
  for (size_t i = 0; i < shape.size(); ++i) out << (i ? ", " : "") << shape[i];
  return out << ")";
}

// An operator was given something that it cannot compute with. The parts of its message, which
// name the operator, what is wrong and the numbers, are written one after the other.
struct Failure : std::runtime_error {
  template <typename... Parts>
  explicit Failure(const Parts &...parts) : std::runtime_error(Text(parts...)) {}

 private:
  template <typename... Parts>
  static std::string Text(const Parts &...parts) {
    std::ostringstream text;
    (text << ... << parts);
    return text.str();
  }
};

// A call of ONNX Runtime failed.
struct StatusError {
  Status *status;
};

inline void Check(Status *status) {
  if (status) throw StatusError{status};
}

// Runs a function that may throw; exceptions must not pass through ONNX Runtime.
template <typename Function>
Status *Guarded(Function function) {
  try {
    function();
    return nullptr;
  } catch (const StatusError &error) {
    return error.status;
  } catch (const std::exception &error) {
    return g_api->Fail(error.what());
  }
}

struct Tensor {
  void *data;
  Shape shape;

  explicit Tensor(const Value *value) {
    Check(g_api->Data(value, &data));
    TensorInfo *info;
    Check(g_api->Info(value, &info));
    const std::unique_ptr<TensorInfo, void (*)(TensorInfo *)> owner(
        info, [](TensorInfo *info) { g_api->Release(info); });
    size_t rank;
    Check(g_api->Rank(info, &rank));
    shape.resize(rank);
    Check(g_api->Shape(info, shape.data(), rank));
  }

  template <typename Element>
  Element *As() const {
    return static_cast<Element *>(data);
  }
  // The length of the last axis; a scalar has one column.
  int64_t Columns() const { return shape.empty() ? 1 : shape.back(); }
  int64_t Rows() const {
    if (shape.empty()) return 1;
    return std::accumulate(shape.begin(), shape.end() - 1, int64_t{1}, std::multiplies<>());
  }
};

inline Tensor Input(const Context *context, size_t index) {
  const Value *value;
  Check(g_api->Input(context, index, &value));
  return Tensor(value);
}

inline float *Output(Context *context, size_t index, const Shape &shape) {
  Value *value;
  Check(g_api->Output(context, index, shape.data(), shape.size(), &value));
  void *data;
  Check(g_api->Data(value, &data));
  return static_cast<float *>(data);
}

// An input that is known when the session is made.
inline Tensor Constant(const KernelInfo *info, size_t index, const char *op, const char *name) {
  const Value *value;
  int is_constant;
  Check(g_api->Constant(info, index, &is_constant, &value));
  if (!is_constant)
    throw Failure(op, ": its ", name, " is not a constant of the graph; make it an initializer");
  return Tensor(value);
}

// Runs a task for every index; a thread takes up to `together` of them, one after the other. They
// are divided so that two or four threads get equally many.
template <typename Task>
void ParallelFor(const Context *context, int64_t count, int64_t together, const Task &task) {
  constexpr int64_t kThreads = 4;
  const int64_t turns = (count + together * kThreads - 1) / (together * kThreads);
  const int64_t blocks = count <= together ? 1 : std::min(count, turns * kThreads);
  auto run_block = [&](int64_t block) {
    const int64_t first = block * count / blocks, end = (block + 1) * count / blocks;
    for (int64_t i = first; i < end; ++i) task(i);
  };
  if (blocks == 1) return run_block(0);
  const auto call = [](void *data, size_t index) {
    (*static_cast<decltype(run_block) *>(data))(index);
  };
  Check(g_api->ParallelFor(context, call, blocks, &run_block));
}

constexpr int64_t kTokensOfTask = 4;

// Memory that one thread uses again for every operator; each purpose has its own.
enum Purpose { kCodes, kStart, kPeaks, kGateAndUp, kQueries, kScores };

template <typename Element, Purpose>
Element *Scratch(size_t count) {
  thread_local std::vector<Element> memory;
  if (memory.size() < count) memory.resize(count);
  return memory.data();
}

}  // namespace tinyllama_ros
