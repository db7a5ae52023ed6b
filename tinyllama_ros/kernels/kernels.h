// The three kernels of the decoder, as one instruction set runs them.

#pragma once

#include <cstddef>
#include <cstdint>

namespace tinyllama_ros {

constexpr int kTile = 32;  // output channels that are computed together
constexpr int kStep = 4;   // input channels that one instruction multiplies and sums

// int8 weights (in, out) in the order in which they are multiplied:
// codes [out / kTile][in / kStep][kTile][kStep], padded with zeros.
struct PackedWeight {
  int64_t in, out, steps, tiles;
  const int8_t *codes;
  const int32_t *start;  // [out] what the sum begins with: it takes the zero point off again
  const float *scale;    // [out]
};

struct Attention {
  int64_t heads, kv_heads, head_dim, slots;  // head_dim is a multiple of 16
  int64_t start, length;  // the chunk is at slots start..start+length-1
  const float *keys, *values;  // [kv_heads][slots][head_dim]
  const float *queries;        // [length][heads][head_dim], rotated
  float *attended;             // [length][heads][head_dim]
};

struct Kernels {
  const char *instructions;
  // Queries of a key and value head in one call of `attend`: its row is a query.
  int64_t attend_rows;

  void (*pack)(const int8_t *weight, const PackedWeight &packed, int8_t *codes, int32_t *start);
  // Codes of one token, with zero point 128, in one row of 4 * steps bytes, or in two if fine;
  // returns the token's largest magnitude.
  float (*quantize)(const float *x, int64_t in, int64_t steps, bool is_fine, uint8_t *codes);
  // y[tokens][out], the columns of one tile.
  void (*multiply)(const PackedWeight &weight, int64_t tile, const uint8_t *codes,
                   const float *peaks, int64_t tokens, bool is_fine, float *y);
  void (*rotate)(const float *x, const float *cos, const float *sin, int64_t head_dim, float *y);
  void (*attend)(const Attention &attention, int64_t kv_head, int64_t first_row, float *scores);
  void (*gate)(const float *both, int64_t width, float *y);
};

// Null where the processor lacks it.
const Kernels *Avx512Kernels();
const Kernels *AvxVnniKernels();

}  // namespace tinyllama_ros
