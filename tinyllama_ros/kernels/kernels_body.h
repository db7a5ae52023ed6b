// The kernels, written once for every instruction set. What includes this has chosen its
// instructions, and defined in its namespace: kInstructions, kLanes, kRowsAtOnce, kAttendRows,
// Floats, Ints, Dot, Fma, Round, LoadFirst, StoreFirst, SumFour.

typedef float LooseFloats __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int32_t LooseInts __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint8_t Bytes __attribute__((vector_size(kLanes)));

constexpr int kTileVectors = kTile / kLanes;
constexpr int kZeroPoint = 128;
constexpr float kStepSize = 1.0f / 127;
constexpr float kFineStepSize = 1.0f / (127 * 254);
constexpr float kFineShare = 1.0f / 254;

inline Floats Load(const float *p) { return *reinterpret_cast<const LooseFloats *>(p); }
inline void Store(float *p, Floats x) { *reinterpret_cast<LooseFloats *>(p) = x; }
inline Floats All(float x) { return x - Floats{}; }
inline Floats Larger(Floats a, Floats b) { return a > b ? a : b; }
inline Floats ToFloats(Ints x) { return __builtin_convertvector(x, Floats); }

inline Floats Magnitude(Floats x) {
  return reinterpret_cast<Floats>(reinterpret_cast<Ints>(x) & 0x7fffffff);
}

inline float Largest(Floats x) {
  float largest = x[0];
  for (int i = 1; i < kLanes; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

inline float Sum(Floats x) {
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x[i] += x[i + half];
  return x[0];
}

// e^x to about 1 ulp, 0 below e^-87: x = n ln 2 + r, e^r by its series up to r^7.
inline Floats Exp(Floats x) {
  constexpr float kLowest = -87, kHighest = 88;
  const Floats bounded = Larger(All(kLowest), x < kHighest ? x : All(kHighest));
  const Ints n = Round(bounded * 1.44269504f);
  const Floats whole = ToFloats(n);
  const Floats r = Fma(whole, All(1.42860677e-6f), Fma(whole, All(-0.693148613f), bounded));
  constexpr float kSeries[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1, 1};
  Floats series = All(1.0f / 5040);
  for (float factor : kSeries) series = Fma(series, r, All(factor));
  const Floats power = reinterpret_cast<Floats>((n + 127) << 23);
  return x < kLowest ? Floats{} : series * power;
}

void Pack(const int8_t *weight, const PackedWeight &packed, int8_t *codes, int32_t *start) {
  for (int64_t tile = 0; tile < packed.tiles; ++tile) {
    const int64_t first = tile * kTile;
    const int64_t width = packed.out - first < kTile ? packed.out - first : kTile;
    int32_t sums[kTile] = {};
    for (int64_t step = 0; step < packed.steps; ++step, codes += kTile * kStep) {
      uint32_t fours[kTile] = {};
      for (int64_t i = 0; i < kStep && step * kStep + i < packed.in; ++i) {
        const int8_t *row = weight + (step * kStep + i) * packed.out + first;
        for (int64_t n = 0; n < width; ++n) {
          sums[n] += row[n];
          fours[n] |= static_cast<uint32_t>(static_cast<uint8_t>(row[n])) << (8 * i);
        }
      }
      __builtin_memcpy(codes, fours, sizeof fours);
    }
    for (int64_t n = 0; n < width; ++n) start[first + n] = -kZeroPoint * sums[n];
  }
}

inline void StoreCodes(Floats scaled, float step, uint8_t *codes, int count) {
  Ints code = Round(scaled / step) + kZeroPoint;
  code = code < 0 ? Ints{} : code;
  code = code > 255 ? Ints{} + 255 : code;
  const Bytes bytes = __builtin_convertvector(code, Bytes);
  __builtin_memcpy(codes, &bytes, count);
}

float Quantize(const float *x, int64_t in, int64_t steps, bool is_fine, uint8_t *codes) {
  Floats largest = {};
  for (int64_t k = 0; k < in; k += kLanes)
    largest = Larger(largest, Magnitude(in - k < kLanes ? LoadFirst(x + k, in - k) : Load(x + k)));
  const float peak = Largest(largest);
  for (int64_t k = 0; k < in; k += kLanes) {
    const int count = in - k < kLanes ? in - k : kLanes;
    const Floats scaled = (count < kLanes ? LoadFirst(x + k, count) : Load(x + k)) / peak;
    StoreCodes(scaled, kStepSize, codes + k, count);
    if (!is_fine) continue;
    Bytes coded = {};
    __builtin_memcpy(&coded, codes + k, count);
    const Ints coarse = __builtin_convertvector(coded, Ints);
    const Floats rest = scaled - ToFloats(coarse - kZeroPoint) * kStepSize;
    StoreCodes(rest, kFineStepSize, codes + steps * kStep + k, count);
  }
  return peak;
}

// From sums of products of codes to kLanes numbers of one token.
template <bool kFine>
inline void Finish(const PackedWeight &weight, int64_t column, Ints sums, Ints fine_sums,
                   float peak, float *y) {
  const int64_t width = weight.out - column;
  if (width <= 0) return;
  const Ints start = *reinterpret_cast<const LooseInts *>(weight.start + column);
  const Floats scale = Load(weight.scale + column);
  Floats product = ToFloats(sums + start) * scale;
  if (kFine) product += ToFloats(fine_sums + start) * scale * kFineShare;
  product *= peak;
  width < kLanes ? StoreFirst(y + column, product, width) : Store(y + column, product);
}

// The tile's columns of kRows rows of codes; two rows are one token where it is fine.
template <int kRows, bool kFine>
void MultiplyRows(const PackedWeight &weight, int64_t tile, const uint8_t *codes,
                  const float *peaks, float *y) {
  const int64_t stride = weight.steps * kStep;
  for (int half = 0; half < kTileVectors; half += 2) {
    Ints sums[kRows][2];
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) sums[row][0] = sums[row][1] = Ints{};
    const int8_t *w = weight.codes + tile * weight.steps * kTile * kStep + half * kLanes * kStep;
    for (int64_t k = 0; k < stride; k += kStep, w += kTile * kStep) {
      const Ints left = *reinterpret_cast<const LooseInts *>(w);
      const Ints right = *reinterpret_cast<const LooseInts *>(w + kLanes * kStep);
#pragma GCC unroll 16
      for (int row = 0; row < kRows; ++row) {
        int32_t four;
        __builtin_memcpy(&four, codes + row * stride + k, kStep);
        sums[row][0] = Dot(sums[row][0], four - Ints{}, left);
        sums[row][1] = Dot(sums[row][1], four - Ints{}, right);
      }
    }
#pragma GCC unroll 2
    for (int part = 0; part < 2; ++part) {
      const int64_t column = tile * kTile + (half + part) * kLanes;
#pragma GCC unroll 16
      for (int row = 0; row < kRows; row += 1 + kFine) {
        const int64_t token = row / (1 + kFine);
        Finish<kFine>(weight, column, sums[row][part], sums[row + kFine][part], peaks[token],
                      y + token * weight.out);
      }
    }
  }
}

// As many rows at once as registers hold, then those that are left.
template <int kRows, bool kFine>
void MultiplyAll(const PackedWeight &weight, int64_t tile, const uint8_t *codes,
                 const float *peaks, int64_t rows, float *y) {
  while (rows >= kRows) {
    MultiplyRows<kRows, kFine>(weight, tile, codes, peaks, y);
    codes += kRows * weight.steps * kStep;
    peaks += kRows / (1 + kFine);
    y += kRows / (1 + kFine) * weight.out;
    rows -= kRows;
  }
  if constexpr (kRows > 1 + kFine)
    MultiplyAll<(kRows > 8 ? 8 : kRows / 2), kFine>(weight, tile, codes, peaks, rows, y);
}

void Multiply(const PackedWeight &weight, int64_t tile, const uint8_t *codes, const float *peaks,
              int64_t tokens, bool is_fine, float *y) {
  is_fine ? MultiplyAll<kRowsAtOnce, true>(weight, tile, codes, peaks, 2 * tokens, y)
          : MultiplyAll<kRowsAtOnce, false>(weight, tile, codes, peaks, tokens, y);
}

void Rotate(const float *x, const float *cos, const float *sin, int64_t head_dim, float *y) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float low = x[i], high = x[i + half];
    y[i] = low * cos[i] - high * sin[i];
    y[i + half] = high * cos[i] + low * sin[i];
  }
}

// Scores of kRows queries for each of `reach` slots, into rows of `stride` floats.
template <int kRows>
void Score(const float *const *queries, const float *keys, int64_t head_dim, int64_t reach,
           float *scores, int64_t stride) {
  constexpr int kSlots = 4;
  for (int64_t slot = 0; slot < reach; slot += kSlots) {
    const float *key[kSlots];
    for (int s = 0; s < kSlots; ++s)
      key[s] = keys + (slot + s < reach ? slot + s : reach - 1) * head_dim;
    Floats sums[kRows][kSlots];
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 8
      for (int s = 0; s < kSlots; ++s) sums[row][s] = Floats{};
    for (int64_t i = 0; i < head_dim; i += kLanes) {
      Floats part[kSlots];
#pragma GCC unroll 8
      for (int s = 0; s < kSlots; ++s) part[s] = Load(key[s] + i);
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) {
        const Floats query = Load(queries[row] + i);
#pragma GCC unroll 8
        for (int s = 0; s < kSlots; ++s) sums[row][s] = Fma(query, part[s], sums[row][s]);
      }
    }
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) SumFour(sums[row], scores + row * stride + slot);
  }
}

// Sums of values, weighted, for kRows queries and kVectors vectors of columns.
template <int kRows, int kVectors>
void Mix(const float *weights, int64_t stride, const float *values, int64_t head_dim,
         int64_t reach, const float *factors, float *const *y) {
  Floats sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[row][v] = Floats{};
  for (int64_t slot = 0; slot < reach; ++slot, values += head_dim) {
    Floats value[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) value[v] = Load(values + v * kLanes);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v)
        sums[row][v] = Fma(All(weights[row * stride + slot]), value[v], sums[row][v]);
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) Store(y[row] + v * kLanes, sums[row][v] * factors[row]);
}

// A row is a query: of a token, and of one of the heads that share the key and value head. What is
// computed for a row does not depend on the rows beside it, so a token's numbers are the same to
// the bit in a pass of one token and in one of many.
template <int kRows>
void AttendRows(const Attention &a, int64_t kv_head, int64_t first_row, float *scores) {
  const int64_t group = a.heads / a.kv_heads;
  const int64_t stride = (a.slots + kLanes - 1) / kLanes * kLanes;
  const int64_t reach = a.start + (first_row + kRows - 1) / group + 1;
  const float *queries[kRows];
  float *y[kRows];
  for (int row = 0; row < kRows; ++row) {
    const int64_t token = (first_row + row) / group, member = (first_row + row) % group;
    const int64_t place = (token * a.heads + kv_head * group + member) * a.head_dim;
    queries[row] = a.queries + place;
    y[row] = a.attended + place;
  }
  Score<kRows>(queries, a.keys + kv_head * a.slots * a.head_dim, a.head_dim, reach, scores,
               stride);
  const float sharpness = 1 / __builtin_sqrtf(static_cast<float>(a.head_dim));
  const int64_t padded = (reach + kLanes - 1) / kLanes * kLanes;
  float factors[kRows];
  for (int row = 0; row < kRows; ++row) {
    float *score = scores + row * stride;
    const int64_t visible = a.start + (first_row + row) / group + 1;
    for (int64_t slot = visible; slot < padded; ++slot) score[slot] = -__builtin_inff();
    Floats largest = Load(score);
    for (int64_t slot = kLanes; slot < padded; slot += kLanes)
      largest = Larger(largest, Load(score + slot));
    const float peak = Largest(largest);
    Floats total = {};
    for (int64_t slot = 0; slot < padded; slot += kLanes) {
      const Floats weight = Exp((Load(score + slot) - peak) * sharpness);
      Store(score + slot, weight);
      total += weight;
    }
    factors[row] = 1 / Sum(total);
  }
  const float *values = a.values + kv_head * a.slots * a.head_dim;
  int64_t column = 0;
  const auto mix = [&](auto mix_columns, int64_t width) {
    mix_columns(scores, stride, values + column, a.head_dim, reach, factors, y);
    for (int row = 0; row < kRows; ++row) y[row] += width;
    column += width;
  };
  while (a.head_dim - column >= 4 * kLanes) mix(Mix<kRows, 4>, 4 * kLanes);
  while (column < a.head_dim) mix(Mix<kRows, 1>, kLanes);
}

template <int kRows = kAttendRows>
void AttendSome(const Attention &attention, int64_t kv_head, int64_t first_row, int64_t rows,
                float *scores) {
  if (rows >= kRows)
    AttendRows<kRows>(attention, kv_head, first_row, scores);
  else if constexpr (kRows > 1)
    AttendSome<kRows - 1>(attention, kv_head, first_row, rows, scores);
}

void Attend(const Attention &attention, int64_t kv_head, int64_t first_row, float *scores) {
  const int64_t rows = attention.length * (attention.heads / attention.kv_heads);
  AttendSome(attention, kv_head, first_row, rows - first_row, scores);
}

void Gate(const float *both, int64_t width, float *y) {
  for (int64_t i = 0; i < width; i += kLanes) {
    const int count = width - i < kLanes ? width - i : kLanes;
    const Floats gate = count < kLanes ? LoadFirst(both + i, count) : Load(both + i);
    const Floats up =
        count < kLanes ? LoadFirst(both + width + i, count) : Load(both + width + i);
    const Floats gated = gate / (1 + Exp(-gate)) * up;
    count < kLanes ? StoreFirst(y + i, gated, count) : Store(y + i, gated);
  }
}

constexpr Kernels kKernels = {kInstructions, kAttendRows, Pack,   Quantize,
                              Multiply,      Rotate,      Attend, Gate};
