// All kernels, written once for every instruction set. The file that includes this has chosen its
// instructions with a pragma, and defined in its anonymous namespace:
//   kInstructions          their name, for people
//   kLanes, Floats, Ints   a vector: its width, and its types of 32-bit elements
//   kRowsAtOnce            rows of activations that a product keeps in registers
//   kAttendRows            rows of queries in one call of Attend
//   kMixedRows, kMixedVectors   the tile of a product of floats that is kept in registers
//   kCodeBytes, PackCodes, LoadPart, Part, Dot   the product of integers: see product_kernels.h
//   Fma, Round, LoadFirst, StoreFirst   what C++ has no operator for

#include "vector_math.h"
#include "product_kernels.h"
#include "attention_kernels.h"

void Gate(const float *gate, const float *up, int64_t width, float *y) {
  for (int64_t i = 0; i < width; i += kLanes) {
    const Floats x = LoadUpTo(gate + i, width - i);
    StoreUpTo(y + i, x / (1 + Exp(-x)) * LoadUpTo(up + i, width - i), width - i);
  }
}

void Normalize(const float *block, const float *residual, const float *weight, int64_t width,
               float epsilon, float *y, float *sum) {
  const int64_t whole = width / kLanes * kLanes, rest = width - whole;
  Floats squares = {};
  for (int64_t i = 0; i < whole; i += kLanes) {
    const Floats total = Load(block + i) + Load(residual + i);
    Store(sum + i, total);
    squares = Fma(total, total, squares);
  }
  if (rest) {
    const Floats total = LoadFirst(block + whole, rest) + LoadFirst(residual + whole, rest);
    StoreFirst(sum + whole, total, rest);
    squares = Fma(total, total, squares);
  }
  const float factor = 1 / __builtin_sqrtf(Sum(squares) / width + epsilon);
  for (int64_t i = 0; i < whole; i += kLanes)
    Store(y + i, Load(sum + i) * factor * Load(weight + i));
  if (rest)
    StoreFirst(y + whole, LoadFirst(sum + whole, rest) * factor * LoadFirst(weight + whole, rest),
               rest);
}

constexpr Kernels kKernels = {kInstructions, kTile,    kCodeBytes,    kAttendRows,
                              Quantize,      QuantizeW8A16, Multiply, MultiplyW8A16,
                              Rotate,        Attend,   Gate,          Normalize};
