// The operator Attention: rotates queries and keys, appends keys and values to the cache, attends.

#pragma once

#include <algorithm>
#include <initializer_list>

#include "kernels.h"
#include "onnxruntime_calls.h"

namespace tinyllama_ros {

class AttentionOperator {
 public:
  static constexpr const char *kName = "Attention";
  static constexpr std::initializer_list<int> kInputs = {kFloat, kFloat, kFloat, kInt32,
                                                         kInt32, kFloat, kFloat};
  static constexpr std::initializer_list<int> kOutputs = {kFloat, kFloat, kFloat};

  AttentionOperator(const Kernels &kernels, const KernelInfo *info) : kernels_(kernels) {
    Check(g_api->Attribute(info, "num_heads", &heads_));
  }

  void Compute(Context *context) const {
    const Tensor qkv = Input(context, 0), past_key = Input(context, 1);
    const Tensor past_value = Input(context, 2), last_slot = Input(context, 3);
    const Tensor cos = Input(context, 5), sin = Input(context, 6);
    Attention a = Measure(qkv, past_key, past_value, last_slot, cos, sin);
    float *attended = Output(context, 0, {1, a.length, a.heads * a.head_dim});
    float *keys = Output(context, 1, past_key.shape);
    float *values = Output(context, 2, past_value.shape);
    if (keys != past_key.data || values != past_value.data)
      throw Failure(kName, ": past and present of the cache are not bound to the same memory");
    float *queries = Scratch<float, kQueries>(a.length * a.heads * a.head_dim);
    a.keys = keys;
    a.values = values;
    a.queries = queries;
    a.attended = attended;
    const int64_t group = a.heads / a.kv_heads, rows = a.length * group;
    const int64_t width = qkv.Columns(), half = a.head_dim / 2;
    ParallelFor(context, a.length, kTokensOfTask, [&](int64_t token) {
      const int64_t slot = a.start + token;
      const float *x = qkv.As<float>() + token * width;
      const float *c = cos.As<float>() + slot * half, *s = sin.As<float>() + slot * half;
      for (int64_t head = 0; head < a.heads; ++head, x += a.head_dim) {
        const int64_t row = head / group * rows + token * group + head % group;
        kernels_.rotate(x, c, s, a.head_dim, queries + row * a.head_dim);
      }
      for (int64_t head = 0; head < a.kv_heads; ++head, x += a.head_dim)
        kernels_.rotate(x, c, s, a.head_dim, keys + (head * a.slots + slot) * a.head_dim);
      for (int64_t head = 0; head < a.kv_heads; ++head, x += a.head_dim)
        std::copy_n(x, a.head_dim, values + (head * a.slots + slot) * a.head_dim);
    });
    const int64_t blocks = (rows + kernels_.attend_rows - 1) / kernels_.attend_rows;
    ParallelFor(context, a.kv_heads * blocks, 1, [&](int64_t task) {
      const int64_t block = task % blocks;
      const int64_t first = block * rows / blocks, end = (block + 1) * rows / blocks;
      float *room = Scratch<float, kScores>(AttendRoom(a, end - first));
      kernels_.attend(a, task / blocks, first, end - first, room);
    });
  }

 private:
  // Returns the sizes, checked: whatever they are, nothing is read or written elsewhere.
  Attention Measure(const Tensor &qkv, const Tensor &past_key, const Tensor &past_value,
                    const Tensor &last_slot, const Tensor &cos, const Tensor &sin) const {
    if (past_key.shape.size() != 4 || past_key.shape[0] != 1 || past_value.shape != past_key.shape)
      throw Failure(kName, ": the past keys are ", past_key.shape, " and the values ",
                    past_value.shape, ", but both are to be (1, kv_heads, slots, head_dim)");
    Attention a;
    a.heads = heads_;
    a.kv_heads = past_key.shape[1];
    a.slots = past_key.shape[2];
    a.head_dim = past_key.shape[3];
    if (a.heads <= 0 || a.kv_heads <= 0 || a.heads % a.kv_heads)
      throw Failure(kName, ": ", a.heads, " heads cannot share ", a.kv_heads,
                    " heads of keys and values equally");
    if (a.head_dim <= 0 || a.head_dim % 16)
      throw Failure(kName, ": head_dim is ", a.head_dim, ", but is to be a multiple of 16");
    const int64_t width = (a.heads + 2 * a.kv_heads) * a.head_dim;
    if (qkv.shape.size() != 3 || qkv.shape[0] != 1 || qkv.shape[2] != width)
      throw Failure(kName, ": qkv is ", qkv.shape, ", but ", a.heads, " heads and 2 x ",
                    a.kv_heads, " of ", a.head_dim, " need (1, tokens, ", width, ")");
    const Shape angles = {a.slots, a.head_dim / 2};
    if (cos.shape != angles || sin.shape != angles)
      throw Failure(kName, ": cos is ", cos.shape, " and sin ", sin.shape,
                    ", but both are to be ", angles);
    if (last_slot.shape != Shape{1})
      throw Failure(kName, ": last_slot is ", last_slot.shape, ", but is to be one number");
    a.length = qkv.shape[1];
    a.start = *last_slot.As<int32_t>() + int64_t{1} - a.length;
    if (a.start < 0 || a.start + a.length > a.slots)
      throw Failure(kName, ": a chunk of ", a.length, " tokens whose last slot is ",
                    *last_slot.As<int32_t>(), " does not fit the cache of ", a.slots, " slots");
    return a;
  }

  const Kernels &kernels_;
  int64_t heads_;
};

}  // namespace tinyllama_ros
