// The kernels as operators of ONNX Runtime, in the domain tinyllama_ros. model/cpu_functions.py says
// what each computes, and from which inputs.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include "kernels.h"
#include "onnxruntime_abi.h"

namespace tinyllama_ros {
namespace {

const Api *g_api = nullptr;
const Kernels *g_kernels = nullptr;

const Kernels *Choose() { return Avx512Kernels() ? Avx512Kernels() : AvxVnniKernels(); }

// Every error inside an operator; what() goes to ONNX Runtime's own exception.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct StatusError {
  Status *status;
};

void Check(Status *status) {
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

using Shape = std::vector<int64_t>;

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
  int64_t Rows() const {
    return std::accumulate(shape.begin(), shape.end() - 1, int64_t{1}, std::multiplies<>());
  }
};

Tensor Input(const Context *context, size_t index) {
  const Value *value;
  Check(g_api->Input(context, index, &value));
  return Tensor(value);
}

float *Output(Context *context, size_t index, const Shape &shape) {
  Value *value;
  Check(g_api->Output(context, index, shape.data(), shape.size(), &value));
  void *data;
  Check(g_api->Data(value, &data));
  return static_cast<float *>(data);
}

// Runs a task for every index; a thread takes up to `together` of them, one after the other. They
// are cut so that two or four threads get as many each.
template <typename Task>
void ParallelFor(const Context *context, int64_t count, int64_t together, const Task &task) {
  constexpr int64_t kThreads = 4;
  const int64_t turns = (count + together * kThreads - 1) / (together * kThreads);
  const int64_t blocks = count <= together ? 1 : std::min(count, turns * kThreads);
  auto some = [&](int64_t block) {
    const int64_t first = block * count / blocks, end = (block + 1) * count / blocks;
    for (int64_t i = first; i < end; ++i) task(i);
  };
  if (blocks == 1) return some(0);
  const auto call = [](void *data, size_t index) { (*static_cast<decltype(some) *>(data))(index); };
  Check(g_api->ParallelFor(context, call, blocks, &some));
}

constexpr int64_t kTokensOfTask = 4, kTilesOfTask = 3;

// Memory that one thread uses again for every operator.
template <typename Element, int>
Element *Scratch(size_t count) {
  thread_local std::vector<Element> memory;
  if (memory.size() < count) memory.resize(count);
  return memory.data();
}

enum { kCodes, kStart, kPeaks, kBoth, kQueries, kScores };

Tensor Constant(const KernelInfo *info, size_t index) {
  const Value *value;
  int is_constant;
  Check(g_api->Constant(info, index, &is_constant, &value));
  if (!is_constant) throw Failure("a weight or its scale is no constant of the graph");
  return Tensor(value);
}

// Advises Linux on the pages that lie wholly in some memory.
void Advise(const void *memory, size_t bytes, size_t page, int advice) {
  const uintptr_t start = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t begin = (start + page - 1) / page * page, end = (start + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void *>(begin), end - begin, advice);
}

// The packed copy is read from now on: the pages of the weight's file need not stay in memory.
template <typename Element>
void LeaveOut(const Tensor &weight) {
#ifdef MADV_PAGEOUT
  const size_t bytes = weight.Rows() * weight.shape.back() * sizeof(Element);
  Advise(weight.data, bytes, sysconf(_SC_PAGESIZE), MADV_PAGEOUT);
#endif
}

// Some large pages, from which weights are cut.
class Block {
 public:
  explicit Block(size_t bytes) : size_((bytes + kPage - 1) / kPage * kPage) {
    memory_.reset(static_cast<uint8_t *>(std::aligned_alloc(kPage, size_)));
    if (!memory_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    Advise(memory_.get(), size_, kPage, MADV_HUGEPAGE);  // Linux may give them only then
#endif
  }

  size_t Left() const { return size_ - used_; }

  uint8_t *Cut(size_t bytes) {
    uint8_t *memory = memory_.get() + used_;
    used_ += (bytes + kLine - 1) / kLine * kLine;
    return memory;
  }

 private:
  static constexpr size_t kPage = 2 << 20, kLine = 64;
  struct Free {
    void operator()(uint8_t *memory) const { std::free(memory); }
  };
  std::unique_ptr<uint8_t, Free> memory_;
  size_t size_, used_ = 0;
};

// Memory for a weight, beside the last one in the same pages: those of a small model would fill no
// large one, and from small ones decoding takes a tenth longer. A block goes with its last weight.
std::shared_ptr<uint8_t> Allocate(size_t bytes) {
  constexpr size_t kBlock = 128 << 20;  // of addresses; pages count when they are used
  static std::mutex mutex;  // sessions may be made by several threads
  static std::weak_ptr<Block> newest;
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<Block> block = newest.lock();
  if (!block || block->Left() < bytes)
    newest = block = std::make_shared<Block>(std::max(bytes, kBlock));
  return {block, block->Cut(bytes)};
}

// A weight as it lies in the graph: a row of codes and a scale to an output channel.
struct Rows {
  const uint8_t *codes;
  int64_t stride;
  uint32_t flip;  // what makes four of the codes unsigned
  const float *scale;
  int64_t scale_stride;
};

// A product with a weight, packed when the session is made.
class Product {
 protected:
  // A gated product has two parts of output channels, gate and up, and a tile as many of either.
  explicit Product(bool is_gated = false) : parts_(1 + is_gated) {}

  void Pack(int64_t in, int64_t out, int64_t group, const Rows &rows) {
    if (out % parts_) throw Failure("gate and up are not as wide");
    weight_.in = in;
    weight_.out = out;
    weight_.steps = (in + kStep - 1) / kStep;
    weight_.tiles = (out + kTile - 1) / kTile;
    weight_.group = group ? group : weight_.steps * kStep;
    weight_.groups = (in + weight_.group - 1) / weight_.group;
    const int64_t bytes = weight_.steps * kStep * kTile;
    codes_ = Allocate(weight_.tiles * bytes);
    scale_.assign(weight_.tiles * kTile, 0);
    for (int64_t tile = 0; tile < weight_.tiles; ++tile) PackTile(rows, tile, bytes);
    weight_.codes = codes_.get();
    weight_.scale = scale_.data();
  }

  template <typename Quantize, typename Multiply>
  void Run(Context *context, int64_t rows_of_token, Quantize quantize, Multiply multiply) const {
    const Tensor x = Input(context, 0);
    if (x.shape.back() != weight_.in) throw Failure("x is as wide as its weight is not");
    const int64_t width = weight_.out / parts_, share = kTile / parts_;
    Shape shape = x.shape;
    shape.back() = width;
    float *y = Output(context, 0, shape);
    const int64_t tokens = x.Rows(), rows = tokens * rows_of_token;
    const Codes codes = {Scratch<int8_t, kCodes>(rows * weight_.steps * kStep),
                         Scratch<int32_t, kStart>(rows * weight_.groups),
                         Scratch<float, kPeaks>(tokens * weight_.groups)};
    ParallelFor(context, tokens, kTokensOfTask, [&](int64_t token) {
      quantize(x.As<float>() + token * weight_.in, weight_,
               From(codes, weight_, token, rows_of_token));
    });
    ParallelFor(context, weight_.tiles, kTilesOfTask, [&](int64_t tile) {
      const Columns to = {y + tile * share, width, std::min(share, width - tile * share)};
      if (parts_ == 1) return multiply(weight_, tile, codes, tokens, to);
      float *both = Scratch<float, kBoth>(tokens * kTile);
      multiply(weight_, tile, codes, tokens, {both, kTile, kTile});
      for (int64_t token = 0; token < tokens; ++token, both += kTile)
        g_kernels->gate(both, both + share, to.count, to.From(token).y);
    });
  }

  std::vector<float> scale_;

 private:
  void PackTile(const Rows &rows, int64_t tile, int64_t bytes) {
    const int64_t width = weight_.out / parts_, share = kTile / parts_;
    uint8_t *to = codes_.get() + tile * bytes;
    std::memset(to, 0, bytes);
    for (int64_t i = 0; i < kTile; ++i, to += kStep) {
      const int64_t column = tile * share + i % share;
      if (column >= width) continue;
      const int64_t channel = i / share * width + column;
      const uint8_t *from = rows.codes + channel * rows.stride;
      int64_t k = 0;
      for (; k + kStep <= weight_.in; k += kStep) {
        uint32_t four;
        std::memcpy(&four, from + k, kStep);
        four ^= rows.flip;
        std::memcpy(to + k * kTile, &four, kStep);
      }
      for (; k < weight_.in; ++k)
        to[k / kStep * kStep * kTile + k % kStep] = from[k] ^ (rows.flip & 0xff);
      scale_[tile * kTile + i] = rows.scale[channel * rows.scale_stride];
    }
  }

  const int64_t parts_;
  PackedWeight weight_;
  std::shared_ptr<uint8_t> codes_;
};

template <bool kIsGated>
class GroupedLinear : private Product {
 public:
  static constexpr const char *kName = kIsGated ? "GatedLinear" : "GroupedLinear";
  static constexpr std::initializer_list<int> kInputs = {kFloat, kUint8, kFloat};
  static constexpr std::initializer_list<int> kOutputs = {kFloat};

  explicit GroupedLinear(const KernelInfo *info) : Product(kIsGated) {
    const Tensor weight = Constant(info, 1), scale = Constant(info, 2);
    int64_t in;
    Check(g_api->Attribute(info, "in", &in));
    if (weight.shape.size() != 3 || scale.shape != Shape{weight.shape[0], weight.shape[1]})
      throw Failure("a weight is not (out, groups, group), or its scale not (out, groups)");
    const int64_t out = weight.shape[0], groups = weight.shape[1], group = weight.shape[2];
    if (group % kStep || (in + group - 1) / group != groups)
      throw Failure("the groups of a weight do not fit its input channels");
    const float *scales = scale.As<float>();
    for (int64_t i = 0; i < out * groups; ++i)
      if (scales[i] != scales[i / groups * groups])
        throw Failure("the groups of an output channel have several scales");
    Pack(in, out, group, {weight.As<uint8_t>(), groups * group, 0, scales, groups});
    for (float &each : scale_) each /= 127;  // peaks are whole, not in steps
    LeaveOut<uint8_t>(weight);
    LeaveOut<float>(scale);
  }

  void Compute(Context *context) const {
    Run(context, 1, g_kernels->quantize, g_kernels->multiply);
  }
};

class W8A16Product : private Product {
 public:
  static constexpr const char *kName = "W8A16Product";
  static constexpr std::initializer_list<int> kInputs = {kFloat, kInt8, kFloat};
  static constexpr std::initializer_list<int> kOutputs = {kFloat};

  explicit W8A16Product(const KernelInfo *info) {
    const Tensor weight = Constant(info, 1), scale = Constant(info, 2);
    if (weight.shape.size() != 2 || scale.shape != Shape{weight.shape[0]})
      throw Failure("a weight is not (out, in), or its scale not (out)");
    const int64_t out = weight.shape[0], in = weight.shape[1];
    Pack(in, out, 0, {weight.As<uint8_t>(), in, 0x80808080, scale.As<float>(), 1});
    LeaveOut<int8_t>(weight);
  }

  void Compute(Context *context) const {
    Run(context, 2, g_kernels->quantize_w8a16, g_kernels->multiply_w8a16);
  }
};

// The name that W8A16Product has in artifacts which were built before it was called so.
class FineProduct : public W8A16Product {
 public:
  static constexpr const char *kName = "FineProduct";
  using W8A16Product::W8A16Product;
};

class Attend {
 public:
  static constexpr const char *kName = "Attention";
  static constexpr std::initializer_list<int> kInputs = {kFloat, kFloat, kFloat, kInt32,
                                                         kInt32, kFloat, kFloat};
  static constexpr std::initializer_list<int> kOutputs = {kFloat, kFloat, kFloat};

  explicit Attend(const KernelInfo *info) {
    Check(g_api->Attribute(info, "num_heads", &heads_));
  }

  void Compute(Context *context) const {
    const Tensor qkv = Input(context, 0), past_key = Input(context, 1);
    const Tensor past_value = Input(context, 2), last_slot = Input(context, 3);
    const Tensor cos = Input(context, 5), sin = Input(context, 6);
    Attention a;
    a.heads = heads_;
    a.kv_heads = past_key.shape[1];
    a.slots = past_key.shape[2];
    a.head_dim = past_key.shape[3];
    a.length = qkv.shape[1];
    a.start = *last_slot.As<int32_t>() + 1 - a.length;
    const int64_t width = (a.heads + 2 * a.kv_heads) * a.head_dim, half = a.head_dim / 2;
    if (qkv.shape.back() != width || a.start < 0 || a.start + a.length > a.slots)
      throw Failure("the chunk does not fit the cache");
    if (a.head_dim % 16) throw Failure("head_dim is no multiple of 16");
    float *attended = Output(context, 0, {1, a.length, a.heads * a.head_dim});
    float *keys = Output(context, 1, past_key.shape);
    float *values = Output(context, 2, past_value.shape);
    if (keys != past_key.data || values != past_value.data)
      throw Failure("past and present of the cache are not bound to the same memory");
    float *queries = Scratch<float, kQueries>(a.length * a.heads * a.head_dim);
    a.keys = keys;
    a.values = values;
    a.queries = queries;
    a.attended = attended;
    const int64_t group = a.heads / a.kv_heads, rows = a.length * group;
    ParallelFor(context, a.length, kTokensOfTask, [&](int64_t token) {
      const int64_t slot = a.start + token;
      const float *x = qkv.As<float>() + token * width;
      const float *c = cos.As<float>() + slot * half, *s = sin.As<float>() + slot * half;
      for (int64_t head = 0; head < a.heads; ++head, x += a.head_dim) {
        const int64_t row = head / group * rows + token * group + head % group;
        g_kernels->rotate(x, c, s, a.head_dim, queries + row * a.head_dim);
      }
      for (int64_t head = 0; head < a.kv_heads; ++head, x += a.head_dim)
        g_kernels->rotate(x, c, s, a.head_dim, keys + (head * a.slots + slot) * a.head_dim);
      for (int64_t head = 0; head < a.kv_heads; ++head, x += a.head_dim)
        std::copy_n(x, a.head_dim, values + (head * a.slots + slot) * a.head_dim);
    });
    const int64_t blocks = (rows + g_kernels->attend_rows - 1) / g_kernels->attend_rows;
    ParallelFor(context, a.kv_heads * blocks, 1, [&](int64_t task) {
      const int64_t block = task % blocks;
      const int64_t first = block * rows / blocks, end = (block + 1) * rows / blocks;
      float *room = Scratch<float, kScores>(AttendRoom(a, end - first));
      g_kernels->attend(a, task / blocks, first, end - first, room);
    });
  }

 private:
  int64_t heads_;
};

class Gate {
 public:
  static constexpr const char *kName = "Gate";
  static constexpr std::initializer_list<int> kInputs = {kFloat};
  static constexpr std::initializer_list<int> kOutputs = {kFloat};

  explicit Gate(const KernelInfo *) {}

  void Compute(Context *context) const {
    const Tensor both = Input(context, 0);
    const int64_t width = both.shape.back() / 2;
    Shape shape = both.shape;
    shape.back() = width;
    float *y = Output(context, 0, shape);
    ParallelFor(context, both.Rows(), kTokensOfTask, [&](int64_t row) {
      const float *gate = both.As<float>() + row * 2 * width;
      g_kernels->gate(gate, gate + width, width, y + row * width);
    });
  }
};

class Norm {
 public:
  static constexpr const char *kName = "Norm";
  static constexpr std::initializer_list<int> kInputs = {kFloat, kFloat, kFloat};
  static constexpr std::initializer_list<int> kOutputs = {kFloat, kFloat};

  explicit Norm(const KernelInfo *info) { Check(g_api->Attribute(info, "epsilon", &epsilon_)); }

  void Compute(Context *context) const {
    const Tensor block = Input(context, 0), residual = Input(context, 1);
    const Tensor weight = Input(context, 2);
    const int64_t width = block.shape.back(), rows = block.Rows();
    if (residual.shape != block.shape || weight.shape != Shape{width})
      throw Failure("block, residual and weight have other shapes");
    float *y = Output(context, 0, block.shape), *sum = Output(context, 1, block.shape);
    ParallelFor(context, rows, kTokensOfTask, [&](int64_t row) {
      g_kernels->normalize(block.As<float>() + row * width, residual.As<float>() + row * width,
                           weight.As<float>(), width, epsilon_, y + row * width,
                           sum + row * width);
    });
  }

 private:
  float epsilon_;
};

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
    return Guarded([&] { *kernel = new Operator(info); });
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
  const tinyllama_ros::Kernels *kernels = tinyllama_ros::Choose();
  return kernels ? kernels->instructions : "";
}

// What ONNX Runtime calls when the library is registered with a session. It does nothing, and the
// operators run as the functions of the graph, where they could not run here.
__attribute__((visibility("default"))) tinyllama_ros::Status *RegisterCustomOps(
    tinyllama_ros::SessionOptions *options, const tinyllama_ros::ApiBase *base) {
  using namespace tinyllama_ros;
  static const CustomOp kOperators[] = {Describe<GroupedLinear<false>>(),
                                        Describe<GroupedLinear<true>>(), Describe<W8A16Product>(),
                                        Describe<FineProduct>(),
                                        Describe<Attend>(), Describe<Gate>(), Describe<Norm>()};
  g_api = base->get(kApiVersion);
  g_kernels = Choose();
  if (!g_api || !g_kernels) return nullptr;
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
