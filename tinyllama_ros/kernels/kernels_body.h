// The kernels, written once for every instruction set. What includes this has chosen its
// instructions, and defined in its namespace: kInstructions, kLanes, kRowsAtOnce, kAttendRows,
// kMixedRows, kMixedVectors, Floats, Ints, Dot, Fma, Round, LoadFirst, StoreFirst.

typedef float LooseFloats __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int32_t LooseInts __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int8_t Bytes __attribute__((vector_size(kLanes)));

constexpr int kTileVectors = kTile / kLanes;
constexpr float kStepSize = 1.0f / 127;
constexpr float kResidualStepSize = 1.0f / (127 * 254);
constexpr float kResidualShare = 1.0f / 254;

inline Floats Load(const float *p) { return *reinterpret_cast<const LooseFloats *>(p); }
inline void Store(float *p, Floats x) { *reinterpret_cast<LooseFloats *>(p) = x; }
inline Floats All(float x) { return x - Floats{}; }
inline Floats Larger(Floats a, Floats b) { return a > b ? a : b; }
inline Floats ToFloats(Ints x) { return __builtin_convertvector(x, Floats); }

// Exchanges the halves of every 2 kHalf lanes.
template <int kHalf, typename Vector>
inline Vector Swap(Vector x) {
  Ints other;
  for (int i = 0; i < kLanes; ++i) other[i] = i ^ kHalf;
  return __builtin_shuffle(x, other);
}

template <int kHalf = kLanes / 2>
inline float Largest(Floats x) {
  if constexpr (kHalf > 0) return Largest<kHalf / 2>(Larger(x, Swap<kHalf>(x)));
  return x[0];
}

template <int kHalf = kLanes / 2, typename Vector>
inline auto Sum(Vector x) {
  if constexpr (kHalf > 0) return Sum<kHalf / 2>(x + Swap<kHalf>(x));
  else return x[0];
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

inline Floats LoadUpTo(const float *p, int64_t count) {
  return count < kLanes ? LoadFirst(p, count) : Load(p);
}

inline void StoreUpTo(float *p, Floats x, int64_t count) {
  if (count >= kLanes)
    Store(p, x);
  else if (count > 0)
    StoreFirst(p, x, count);
}

// The largest magnitude: as whole numbers, bits of floats that are not negative compare alike.
inline float Peak(const float *x, int64_t count) {
  Ints largest = {};
  for (int64_t i = 0; i < count; i += kLanes) {
    const Ints magnitude = reinterpret_cast<Ints>(LoadUpTo(x + i, count - i)) & 0x7fffffff;
    largest = largest > magnitude ? largest : magnitude;
  }
  return Largest(reinterpret_cast<Floats>(largest));
}

// Stores codes of up to kLanes numbers, in steps, and returns them.
inline Ints StoreCodes(Floats steps, int8_t *codes, int64_t count) {
  Ints code = Round(steps);
  code = code < -128 ? Ints{} - 128 : code;
  code = code > 127 ? Ints{} + 127 : code;
  const Bytes bytes = __builtin_convertvector(code, Bytes);
  count < kLanes ? __builtin_memcpy(codes, &bytes, count)
                 : __builtin_memcpy(codes, &bytes, kLanes);
  return code;
}

void Quantize(const float *x, const PackedWeight &weight, const Codes &token) {
  for (int64_t group = 0; group < weight.groups; ++group) {
    const int64_t first = group * weight.group, left = weight.in - first;
    const int64_t count = left < weight.group ? left : weight.group;
    const float peak = Peak(x + first, count);
    const float factor = peak > 0 ? 127 / peak : 0;
    Ints total = {};
    for (int64_t i = first; i < first + count; i += kLanes)
      total += StoreCodes(LoadUpTo(x + i, first + count - i) * factor, token.codes + i,
                          first + count - i);
    token.start[group] = -kZeroPoint * Sum(total);
    token.peaks[group] = peak;
  }
}

void QuantizeFinely(const float *x, const PackedWeight &weight, const Codes &token) {
  const int64_t width = weight.steps * kStep;
  const float peak = Peak(x, weight.in);
  Ints total = {}, residual_total = {};
  for (int64_t i = 0; i < weight.in; i += kLanes) {
    const int64_t count = weight.in - i < kLanes ? weight.in - i : kLanes;
    const Floats scaled = LoadUpTo(x + i, count) / peak;
    const Ints coarse = StoreCodes(scaled / kStepSize, token.codes + i, count);
    const Floats rest = scaled - ToFloats(coarse) * kStepSize;
    total += coarse;
    residual_total += StoreCodes(rest / kResidualStepSize, token.codes + width + i, count);
  }
  token.start[0] = -kZeroPoint * Sum(total);
  token.start[1] = -kZeroPoint * Sum(residual_total);
  token.peaks[0] = peak;
}

// Adds products for kRows rows of codes and two vectors of output channels. Meanwhile the next
// tile, from `ahead` on, is asked for: with many rows, memory has the time of all of them for it.
template <int kRows>
inline void Accumulate(const uint8_t *w, const int8_t *codes, int64_t stride, int64_t width,
                       const uint8_t *ahead, Ints (&sums)[kRows][2]) {
  constexpr bool kHasTime = 2 * kRows > kRowsAtOnce;
  for (int64_t k = 0; k < width; k += kStep, w += kTile * kStep) {
    const Ints left = *reinterpret_cast<const LooseInts *>(w);
    const Ints right = *reinterpret_cast<const LooseInts *>(w + kLanes * kStep);
    if (kHasTime && k % 8 == 0) __builtin_prefetch(ahead + k * 8, 0, 2);
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      int32_t four;
      __builtin_memcpy(&four, codes + row * stride + k, kStep);
      sums[row][0] = Dot(sums[row][0], left, four - Ints{});
      sums[row][1] = Dot(sums[row][1], right, four - Ints{});
    }
  }
}

// Of the next tile, the quarter that is asked for in a pass.
inline const uint8_t *Ahead(const PackedWeight &weight, int64_t tile, int64_t pass) {
  const int64_t bytes = weight.steps * kStep * kTile;
  return weight.codes + (tile + 1) * bytes + pass % 4 * bytes / 4;
}

// The tile's columns of kRows tokens.
template <int kRows>
void MultiplyRows(const PackedWeight &weight, int64_t tile, const Codes &codes,
                  const uint8_t *ahead, const Columns &to) {
  const int64_t stride = weight.steps * kStep;
  const uint8_t *w = weight.codes + tile * stride * kTile;
  for (int half = 0; half < kTileVectors; half += 2) {
    Floats totals[kRows][2] = {};
    for (int64_t group = 0; group < weight.groups; ++group) {
      const int64_t k = group * weight.group;
      const int64_t width = stride - k < weight.group ? stride - k : weight.group;
      Ints sums[kRows][2];
#pragma GCC unroll 16
      for (int row = 0; row < kRows; ++row)
        sums[row][0] = sums[row][1] = codes.start[row * weight.groups + group] - Ints{};
      Accumulate<kRows>(w + k * kTile + half * kLanes * kStep, codes.codes + k, stride, width,
                        ahead + k * 8, sums);
#pragma GCC unroll 16
      for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 2
        for (int part = 0; part < 2; ++part)
          totals[row][part] = Fma(ToFloats(sums[row][part]),
                                  All(codes.peaks[row * weight.groups + group]),
                                  totals[row][part]);
    }
    for (int row = 0; row < kRows; ++row)
      for (int part = 0; part < 2; ++part) {
        const int64_t column = (half + part) * kLanes;
        const Floats scale = Load(weight.scale + tile * kTile + column);
        StoreUpTo(to.y + row * to.stride + column, totals[row][part] * scale, to.count - column);
      }
  }
}

// One vector of output channels of a token that is two rows, from a column of a tile on.
inline void FinishPair(const float *scales, Ints sums, Ints residual_sums, float peak, int64_t column,
                       const Columns &to) {
  const Floats scale = Load(scales + column);
  const Floats more = ToFloats(residual_sums) * scale * kResidualShare;
  StoreUpTo(to.y + column, (ToFloats(sums) * scale + more) * peak, to.count - column);
}

// The same for rows of which two are one token.
template <int kRows>
void MultiplyPairs(const PackedWeight &weight, int64_t tile, const Codes &codes,
                   const uint8_t *ahead, const Columns &to) {
  const int64_t stride = weight.steps * kStep;
  const uint8_t *w = weight.codes + tile * stride * kTile;
  for (int half = 0; half < kTileVectors; half += 2) {
    Ints sums[kRows][2];
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row)
      sums[row][0] = sums[row][1] = codes.start[row] - Ints{};
    Accumulate<kRows>(w + half * kLanes * kStep, codes.codes, stride, stride, ahead, sums);
#pragma GCC unroll 16
    for (int row = 0; row < kRows; row += 2)
#pragma GCC unroll 2
      for (int part = 0; part < 2; ++part)
        FinishPair(weight.scale + tile * kTile, sums[row][part], sums[row + 1][part],
                   codes.peaks[row / 2], (half + part) * kLanes, to.From(row / 2));
  }
}

template <bool kFine, int kTokens = kRowsAtOnce / (1 + kFine)>
void MultiplySome(const PackedWeight &weight, int64_t tile, const Codes &codes, int64_t tokens,
                  const uint8_t *ahead, const Columns &to) {
  if constexpr (kTokens > 1)
    if (tokens < kTokens)
      return MultiplySome<kFine, kTokens - 1>(weight, tile, codes, tokens, ahead, to);
  if constexpr (kFine)
    MultiplyPairs<2 * kTokens>(weight, tile, codes, ahead, to);
  else
    MultiplyRows<kTokens>(weight, tile, codes, ahead, to);
}

// In the fewest passes that registers allow, of as many tokens each.
template <bool kFine>
void MultiplyAll(const PackedWeight &weight, int64_t tile, const Codes &codes, int64_t tokens,
                 const Columns &to) {
  constexpr int64_t kMost = kRowsAtOnce / (1 + kFine);
  const int64_t passes = (tokens + kMost - 1) / kMost;
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t first = pass * tokens / passes, end = (pass + 1) * tokens / passes;
    MultiplySome<kFine>(weight, tile, From(codes, weight, first, 1 + kFine), end - first,
                        Ahead(weight, tile, pass), to.From(first));
  }
}

void Multiply(const PackedWeight &weight, int64_t tile, const Codes &codes, int64_t tokens,
              const Columns &to) {
  MultiplyAll<false>(weight, tile, codes, tokens, to);
}

void MultiplyFinely(const PackedWeight &weight, int64_t tile, const Codes &codes, int64_t tokens,
                    const Columns &to) {
  MultiplyAll<true>(weight, tile, codes, tokens, to);
}

void Rotate(const float *x, const float *cos, const float *sin, int64_t head_dim, float *y) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; i += kLanes) {
    const int64_t count = half - i;
    const Floats low = LoadUpTo(x + i, count), high = LoadUpTo(x + half + i, count);
    const Floats c = LoadUpTo(cos + i, count), s = LoadUpTo(sin + i, count);
    StoreUpTo(y + i, low * c - high * s, count);
    StoreUpTo(y + half + i, high * c + low * s, count);
  }
}

// A product of floats: y[row][column] = factors[row] * (sum over i of x[row][i] * w[i][column]),
// summed in the order of i, whichever rows and columns are computed beside it.
struct FloatProduct {
  const float *x, *w;
  int64_t x_stride, w_stride, count;
  const float *factors;
  float *const *y;
};

template <int kRows, int kVectors>
void MixTile(const FloatProduct &product, int64_t row, int64_t column) {
  const float *x = product.x + row * product.x_stride, *w = product.w + column;
  const int64_t stride = product.x_stride;
  Floats sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[r][v] = Floats{};
  for (int64_t i = 0; i < product.count; ++i, w += product.w_stride) {
    Floats part[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) part[v] = Load(w + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Floats share = All(x[r * stride + i]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[r][v] = Fma(share, part[v], sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v)
      Store(product.y[row + r] + column + v * kLanes, sums[r][v] * product.factors[row + r]);
}

template <int kVectors, int kRows = kMixedRows>
void MixSome(const FloatProduct &product, int64_t row, int64_t rows, int64_t column) {
  if constexpr (kRows > 1)
    if (rows < kRows) return MixSome<kVectors, kRows - 1>(product, row, rows, column);
  MixTile<kRows, kVectors>(product, row, column);
}

// In the fewest passes that registers allow, of as many rows each.
template <int kVectors = kMixedVectors>
void MixColumns(const FloatProduct &product, int64_t rows, int64_t column, int64_t vectors) {
  if constexpr (kVectors > 1)
    if (vectors < kVectors)
      return MixColumns<kVectors - 1>(product, rows, column, vectors);
  const int64_t passes = (rows + kMixedRows - 1) / kMixedRows;
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t first = pass * rows / passes, end = (pass + 1) * rows / passes;
    MixSome<kVectors>(product, first, end - first, column);
  }
}

// Swaps the rows and columns of kLanes vectors.
inline void Transpose(Floats (&x)[kLanes]) {
  Ints low, high;
  for (int i = 0; i < kLanes; ++i) {
    low[i] = i / 2 + i % 2 * kLanes;
    high[i] = low[i] + kLanes / 2;
  }
#pragma GCC unroll 4
  for (int step = 1; step < kLanes; step *= 2) {
    Floats zipped[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      zipped[2 * i] = __builtin_shuffle(x[i], x[i + kLanes / 2], low);
      zipped[2 * i + 1] = __builtin_shuffle(x[i], x[i + kLanes / 2], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) x[i] = zipped[i];
  }
}

constexpr int64_t kBlock = kMixedVectors * kLanes;  // slots whose keys are transposed together

// The keys of kLanes slots into columns of [head_dim][kBlock]; the last one's, behind it.
void TransposeKeys(const float *keys, int64_t head_dim, int64_t slots, float *transposed) {
  for (int64_t i = 0; i < head_dim; i += kLanes) {
    Floats part[kLanes];
#pragma GCC unroll 16
    for (int slot = 0; slot < kLanes; ++slot)
      part[slot] = Load(keys + (slot < slots ? slot : slots - 1) * head_dim + i);
    Transpose(part);
#pragma GCC unroll 16
    for (int j = 0; j < kLanes; ++j) Store(transposed + (i + j) * kBlock, part[j]);
  }
}

// Makes scores weights, of slots up to `visible`; those behind, up to `padded`, are 0. Returns
// what the weights are too large by.
inline float SoftMax(float *scores, int64_t visible, int64_t padded) {
  for (int64_t slot = visible; slot < padded; ++slot) scores[slot] = -__builtin_inff();
  Floats largest = Load(scores);
  for (int64_t slot = kLanes; slot < padded; slot += kLanes)
    largest = Larger(largest, Load(scores + slot));
  const float peak = Largest(largest);
  Floats total = {};
  for (int64_t slot = 0; slot < padded; slot += kLanes) {
    const Floats weight = Exp(Load(scores + slot) - peak);
    Store(scores + slot, weight);
    total += weight;
  }
  return Sum(total);
}

// A row is a query: of a token, and of one of the heads that share the key and value head. What is
// computed for a row does not depend on the rows beside it, so a token's numbers are the same to
// the bit in a pass of one token and in one of many.
void Attend(const Attention &a, int64_t kv_head, int64_t first_row, int64_t rows, float *room) {
  const int64_t group = a.heads / a.kv_heads;
  const int64_t reach = a.start + (first_row + rows - 1) / group + 1;
  const int64_t padded = (reach + kLanes - 1) / kLanes * kLanes;
  // Not a power of two: the same slot of all rows would compete for one place in the cache.
  const int64_t stride = (a.slots / kLanes + 1) * kLanes;
  float *transposed = room, *scores = room + kBlock * a.head_dim;
  float factors[kAttendRows];
  float *y[kAttendRows];
  for (int row = 0; row < rows; ++row)
    factors[row] = 1 / __builtin_sqrtf(static_cast<float>(a.head_dim));
  const float *queries =
      a.queries + (kv_head * a.length * group + first_row) * a.head_dim;
  const float *keys = a.keys + kv_head * a.slots * a.head_dim;
  for (int64_t slot = 0; slot < reach; slot += kBlock) {
    const int64_t end = padded - slot < kBlock ? padded - slot : kBlock;
    for (int64_t s = 0; s < end; s += kLanes)
      TransposeKeys(keys + (slot + s) * a.head_dim, a.head_dim, reach - slot - s, transposed + s);
    for (int row = 0; row < rows; ++row) y[row] = scores + row * stride + slot;
    MixColumns({queries, transposed, a.head_dim, kBlock, a.head_dim, factors, y}, rows, 0,
               end / kLanes);
  }
  for (int row = 0; row < rows; ++row) {
    const int64_t token = (first_row + row) / group, member = (first_row + row) % group;
    factors[row] = 1 / SoftMax(scores + row * stride, a.start + token + 1, padded);
    y[row] = a.attended + (token * a.heads + kv_head * group + member) * a.head_dim;
  }
  const float *values = a.values + kv_head * a.slots * a.head_dim;
  for (int64_t column = 0; column < a.head_dim; column += kBlock)
    MixColumns({scores, values, stride, a.head_dim, reach, factors, y}, rows, column,
               (a.head_dim - column) / kLanes);
}

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

constexpr Kernels kKernels = {kInstructions, kAttendRows, Quantize, QuantizeFinely, Multiply,
                              MultiplyFinely, Rotate, Attend, Gate, Normalize};
