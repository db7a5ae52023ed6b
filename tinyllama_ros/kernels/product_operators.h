// The operators that multiply with a weight: GroupedLinear, GatedLinear, W8A16Product.

#pragma once

#include <cstring>
#include <initializer_list>
#include <memory>
#include <vector>

#include "kernels.h"
#include "onnxruntime_calls.h"
#include "weight_memory.h"

namespace tinyllama_ros {

// A weight as it lies in the graph: a row of codes and a scale to an output channel.
struct WeightRows {
  const uint8_t *codes;
  int64_t stride;
  uint32_t flip;  // XORed with four codes, makes them unsigned
  const float *scale;
  int64_t scale_stride;
};

// A product with a weight, which is packed when the session is made.
class Product {
 protected:
  // A gated product has two halves of output channels, gate and up; so has each of its tiles.
  Product(const Kernels &kernels, const char *name, bool is_gated = false)
      : kernels_(kernels), name_(name), halves_(1 + is_gated) {}

  void Pack(int64_t in, int64_t out, int64_t group, const WeightRows &rows) {
    if (in <= 0 || out <= 0)
      throw Failure(name_, ": its weight has ", in, " input and ", out, " output channels");
    if (out % halves_)
      throw Failure(name_, ": its weight has ", out, " output channels, an odd number, of which "
                    "gate and up cannot have half each");
    weight_.in = in;
    weight_.out = out;
    weight_.steps = (in + kStep - 1) / kStep;
    weight_.tiles = (out + kernels_.tile - 1) / kernels_.tile;
    weight_.group = group ? group : weight_.steps * kStep;
    weight_.groups = (in + weight_.group - 1) / weight_.group;
    const int64_t bytes = weight_.steps * kStep * kernels_.tile;
    codes_ = AllocateWeight(weight_.tiles * bytes);
    scale_.assign(weight_.tiles * kernels_.tile, 0);
    for (int64_t tile = 0; tile < weight_.tiles; ++tile) PackTile(rows, tile, bytes);
    weight_.codes = codes_.get();
    weight_.scale = scale_.data();
  }

  template <typename Quantize, typename Multiply>
  void Run(Context *context, int64_t rows_of_token, Quantize quantize, Multiply multiply) const {
    constexpr int64_t kChannelsOfTask = 96;
    const Tensor x = Input(context, 0);
    if (x.Columns() != weight_.in)
      throw Failure(name_, ": x has ", x.Columns(), " columns, its weight ", weight_.in,
                    " input channels");
    const int64_t code_bytes = kernels_.code_bytes, tile_width = kernels_.tile;
    const int64_t width = weight_.out / halves_, share = tile_width / halves_;
    Shape shape = x.shape;
    if (!shape.empty()) shape.back() = width;
    float *y = Output(context, 0, shape);
    const int64_t tokens = x.Rows(), rows = tokens * rows_of_token;
    const Codes codes = {
        Scratch<int8_t, kCodes>(rows * weight_.steps * kStep * code_bytes),
        Scratch<int32_t, kStart>(rows * weight_.groups),
        Scratch<float, kPeaks>(tokens * weight_.groups)};
    ParallelFor(context, tokens, kTokensOfTask, [&](int64_t token) {
      quantize(x.As<float>() + token * weight_.in, weight_,
               From(codes, weight_, token, code_bytes, rows_of_token));
    });
    ParallelFor(context, weight_.tiles, kChannelsOfTask / tile_width, [&](int64_t tile) {
      const Columns to = {y + tile * share, width, std::min(share, width - tile * share)};
      if (halves_ == 1) return multiply(weight_, tile, codes, tokens, to);
      float *both = Scratch<float, kGateAndUp>(tokens * tile_width);
      multiply(weight_, tile, codes, tokens, {both, tile_width, tile_width});
      for (int64_t token = 0; token < tokens; ++token, both += tile_width)
        kernels_.gate(both, both + share, to.count, to.From(token).y);
    });
  }

  const Kernels &kernels_;
  std::vector<float> scale_;

 private:
  void PackTile(const WeightRows &rows, int64_t tile, int64_t bytes) {
    const int64_t tile_width = kernels_.tile;
    const int64_t width = weight_.out / halves_, share = tile_width / halves_;
    uint8_t *to = codes_.get() + tile * bytes;
    std::memset(to, 0, bytes);
    for (int64_t i = 0; i < tile_width; ++i, to += kStep) {
      const int64_t column = tile * share + i % share;
      if (column >= width) continue;
      const int64_t channel = i / share * width + column;
      const uint8_t *from = rows.codes + channel * rows.stride;
      int64_t k = 0;
      for (; k + kStep <= weight_.in; k += kStep) {
        uint32_t four;
        std::memcpy(&four, from + k, kStep);
        four ^= rows.flip;
        std::memcpy(to + k * tile_width, &four, kStep);
      }
      for (; k < weight_.in; ++k)
        to[k / kStep * kStep * tile_width + k % kStep] = from[k] ^ (rows.flip & 0xff);
      scale_[tile * tile_width + i] = rows.scale[channel * rows.scale_stride];
    }
  }

  const char *const name_;
  const int64_t halves_;
  PackedWeight weight_;
  std::shared_ptr<uint8_t> codes_;
};

template <bool kIsGated>
class GroupedLinear : private Product {
 public:
  static constexpr const char *kName = kIsGated ? "GatedLinear" : "GroupedLinear";
  static constexpr std::initializer_list<int> kInputs = {kFloat, kUint8, kFloat};
  static constexpr std::initializer_list<int> kOutputs = {kFloat};

  GroupedLinear(const Kernels &kernels, const KernelInfo *info)
      : Product(kernels, kName, kIsGated) {
    const Tensor weight = Constant(info, 1, kName, "weight");
    const Tensor scale = Constant(info, 2, kName, "scale");
    int64_t in;
    Check(g_api->Attribute(info, "in", &in));
    if (weight.shape.size() != 3 || scale.shape != Shape{weight.shape[0], weight.shape[1]})
      throw Failure(kName, ": its weight is ", weight.shape, " and its scale ", scale.shape,
                    ", but they are to be (out, groups, group) and (out, groups)");
    const int64_t out = weight.shape[0], groups = weight.shape[1], group = weight.shape[2];
    if (group <= 0 || group % kStep || in <= (groups - 1) * group || in > groups * group)
      throw Failure(kName, ": its weight has ", groups, " groups of ", group,
                    ", which do not fit its ", in, " input channels: groups are to have a "
                    "multiple of ", kStep, ", and there is one to each ", group, " channels");
    const float *scales = scale.As<float>();
    for (int64_t i = 0; i < out * groups; ++i)
      if (scales[i] != scales[i / groups * groups])
        throw Failure(kName, ": the groups of output channel ", i / groups, " have several "
                      "scales, ", scales[i / groups * groups], " and ", scales[i],
                      ": the kernel has one scale to an output channel");
    Pack(in, out, group, {weight.As<uint8_t>(), groups * group, 0, scales, groups});
    for (float &channel_scale : scale_) channel_scale /= 127;  // of peaks, not of steps
    ReleasePages(weight.data, out * groups * group);
    ReleasePages(scale.data, out * groups * sizeof(float));
  }

  void Compute(Context *context) const { Run(context, 1, kernels_.quantize, kernels_.multiply); }
};

class W8A16Product : private Product {
 public:
  static constexpr const char *kName = "W8A16Product";
  static constexpr std::initializer_list<int> kInputs = {kFloat, kInt8, kFloat};
  static constexpr std::initializer_list<int> kOutputs = {kFloat};

  W8A16Product(const Kernels &kernels, const KernelInfo *info) : Product(kernels, kName) {
    const Tensor weight = Constant(info, 1, kName, "weight");
    const Tensor scale = Constant(info, 2, kName, "scale");
    if (weight.shape.size() != 2 || scale.shape != Shape{weight.shape[0]})
      throw Failure(kName, ": its weight is ", weight.shape, " and its scale ", scale.shape,
                    ", but they are to be (out, in) and (out)");
    const int64_t out = weight.shape[0], in = weight.shape[1];
    Pack(in, out, 0, {weight.As<uint8_t>(), in, 0x80808080, scale.As<float>(), 1});
    ReleasePages(weight.data, out * in);
  }

  void Compute(Context *context) const {
    Run(context, 2, kernels_.quantize_w8a16, kernels_.multiply_w8a16);
  }
};

// W8A16Product under the name that it has in artifacts of earlier versions.
struct FineProduct : W8A16Product {
  static constexpr const char *kName = "FineProduct";
  using W8A16Product::W8A16Product;
};

}  // namespace tinyllama_ros
