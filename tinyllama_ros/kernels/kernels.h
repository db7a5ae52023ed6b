// The kernels of the decoder, as one instruction set runs them.

#pragma once

#include <cstddef>
#include <cstdint>

namespace tinyllama_ros {

constexpr int kStep = 4;         // input channels that are multiplied and summed together
constexpr int kZeroPoint = 128;  // of weights: instructions multiply unsigned by signed numbers

// Weights of 8 bits in the order in which they are multiplied: in tiles of output channels.
struct PackedWeight {
  int64_t in, out;
  int64_t steps, tiles;  // in / kStep and out / Kernels::tile, rounded up
  int64_t group;         // input channels whose activations have one scale; a multiple of kStep
  int64_t groups;
  const uint8_t *codes;  // [tiles][steps][tile][kStep]; 0, not the zero point, beyond the edges
  const float *scale;    // [tiles * tile]
};

// Activations of some tokens as they are multiplied: a token is one row of codes, or two, of which
// the second holds what rounding to the first left over.
struct Codes {
  int8_t *codes;   // [rows][steps * kStep] of Kernels::code_bytes each; anything beyond the edge
  int32_t *start;  // [rows][groups] the value a sum starts with: it subtracts the zero point
  float *peaks;    // [tokens][groups] the largest magnitude
};

// Where the columns of a tile are written to; the last tile has fewer than the others.
struct Columns {
  float *y;  // of the first token
  int64_t stride, count;

  Columns From(int64_t token) const { return {y + token * stride, stride, count}; }
};

struct Attention {
  int64_t heads, kv_heads, head_dim, slots;  // head_dim is a multiple of 16
  int64_t start, length;  // the chunk is at slots start..start+length-1
  const float *keys, *values;  // [kv_heads][slots][head_dim]
  const float *queries;        // [kv_heads][length][heads / kv_heads][head_dim], rotated
  float *attended;             // [length][heads][head_dim]
};

struct Kernels {
  const char *instructions;  // their name, for people
  int64_t tile;              // output channels that are computed together
  int64_t code_bytes;        // that the code of an activation takes in memory
  int64_t attend_rows;       // the most rows (queries of a key and value head) of one `attend`

  void (*quantize)(const float *x, const PackedWeight &weight, const Codes &token);
  void (*quantize_w8a16)(const float *x, const PackedWeight &weight, const Codes &token);
  void (*multiply)(const PackedWeight &weight, int64_t tile, const Codes &codes, int64_t tokens,
                   const Columns &to);
  void (*multiply_w8a16)(const PackedWeight &weight, int64_t tile, const Codes &codes,
                         int64_t tokens, const Columns &to);
  void (*rotate)(const float *x, const float *cos, const float *sin, int64_t head_dim, float *y);
  void (*attend)(const Attention &attention, int64_t kv_head, int64_t first_row, int64_t rows,
                 float *room);
  // y = SiLU(gate) * up
  void (*gate)(const float *gate, const float *up, int64_t width, float *y);
  // sum = block + residual; y = sum / its root mean square * weight.
  void (*normalize)(const float *block, const float *residual, const float *weight, int64_t width,
                    float epsilon, float *y, float *sum);
};

// Floats that `attend` needs as working memory: the keys of up to 64 slots, and scores.
inline int64_t AttendRoom(const Attention &attention, int64_t rows) {
  return 64 * attention.head_dim + rows * (attention.slots + 16);
}

// The codes from a token on.
inline Codes From(const Codes &codes, const PackedWeight &weight, int64_t token,
                  int64_t code_bytes, int64_t rows_of_token = 1) {
  const int64_t row = token * rows_of_token;
  return {codes.codes + row * weight.steps * kStep * code_bytes, codes.start + row * weight.groups,
          codes.peaks + token * weight.groups};
}

// Each null where the processor lacks its instructions.
const Kernels *Avx512Kernels();
const Kernels *AvxVnniKernels();
const Kernels *Avx2Kernels();

// The fastest that this processor runs; null if it runs none.
const Kernels *ChooseKernels();

}  // namespace tinyllama_ros
