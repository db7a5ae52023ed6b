// The product of activations of 8 bits, or nearly 16, with weights of 8 bits. Part of
// kernels_body.h.
//
// What an instruction set defines for it:
//   kCodeBytes                 bytes of a code of an activation, and parts of a step: either one
//                              part of four input channels, or two parts of two
//   PackCodes(codes)           codes as they lie in memory: the parts of each step in turn
//   LoadPart<part>(codes)      the codes of one row in one part of a step, in every lane
//   Part<part>(weights)        the weights that these are multiplied with
//   Dot(sums, weights, codes)  adds the products to each lane, in integers of 32 bits: exactly,
//                              nothing saturates

constexpr int kTile = 2 * kLanes;  // output channels that are summed together: two vectors
constexpr int64_t kCacheLine = 64;
constexpr int64_t kAhead = kTile / 4;  // bytes that a pass prefetches for each input channel
constexpr float kStepSize = 1.0f / 127;
constexpr float kResidualStepSize = 1.0f / (127 * 254);
constexpr float kResidualShare = 1.0f / 254;

// The largest magnitude: as whole numbers, bits of floats that are not negative compare alike.
inline float Peak(const float *x, int64_t count) {
  Ints largest = {};
  for (int64_t i = 0; i < count; i += kLanes) {
    const Ints magnitude = reinterpret_cast<Ints>(LoadUpTo(x + i, count - i)) & 0x7fffffff;
    largest = largest > magnitude ? largest : magnitude;
  }
  return Largest(reinterpret_cast<Floats>(largest));
}

// Rounds up to kLanes numbers, given in steps, to codes; stores and returns them.
inline Ints StoreCodes(Floats steps, int8_t *codes, int64_t count) {
  Ints code = Round(steps);
  code = code < -128 ? Ints{} - 128 : code;
  code = code > 127 ? Ints{} + 127 : code;
  const auto packed = PackCodes(code);
  // Codes of several bytes change places within a step, so whole steps are stored.
  if (kCodeBytes > 1) count = (count + kStep - 1) / kStep * kStep;
  count < kLanes ? __builtin_memcpy(codes, &packed, count * kCodeBytes)
                 : __builtin_memcpy(codes, &packed, kLanes * kCodeBytes);
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
      total += StoreCodes(LoadUpTo(x + i, first + count - i) * factor,
                          token.codes + i * kCodeBytes, first + count - i);
    token.start[group] = -kZeroPoint * Sum(total);
    token.peaks[group] = peak;
  }
}

void QuantizeW8A16(const float *x, const PackedWeight &weight, const Codes &token) {
  int8_t *const residual_codes = token.codes + weight.steps * kStep * kCodeBytes;
  const float peak = Peak(x, weight.in);
  Ints total = {}, residual_total = {};
  for (int64_t i = 0; i < weight.in; i += kLanes) {
    const int64_t count = weight.in - i < kLanes ? weight.in - i : kLanes;
    const Floats scaled = LoadUpTo(x + i, count) / peak;
    const Ints coarse = StoreCodes(scaled / kStepSize, token.codes + i * kCodeBytes, count);
    const Floats rest = scaled - ToFloats(coarse) * kStepSize;
    total += coarse;
    residual_total +=
        StoreCodes(rest / kResidualStepSize, residual_codes + i * kCodeBytes, count);
  }
  token.start[0] = -kZeroPoint * Sum(total);
  token.start[1] = -kZeroPoint * Sum(residual_total);
  token.peaks[0] = peak;
}

// Adds the products of kRows rows of codes and the two vectors of weights of a step, of one part.
template <int kPart, int kRows>
inline void AddPart(const uint8_t *w, const int8_t *codes, int64_t stride,
                    Ints (&sums)[kRows][2]) {
  const Ints left = Part<kPart>(LoadInts(w)), right = Part<kPart>(LoadInts(w + kLanes * kStep));
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) {
    const Ints part_codes = LoadPart<kPart>(codes + row * stride * kCodeBytes);
    sums[row][0] = Dot(sums[row][0], left, part_codes);
    sums[row][1] = Dot(sums[row][1], right, part_codes);
  }
}

// Adds the products of all steps. Meanwhile the next tile, from `ahead` on, is prefetched: with
// many rows, there is time for it.
template <int kRows>
inline void Accumulate(const uint8_t *w, const int8_t *codes, int64_t stride, int64_t width,
                       const uint8_t *ahead, Ints (&sums)[kRows][2]) {
  constexpr bool kHasTime = 2 * kRows > kRowsAtOnce;
  for (int64_t k = 0; k < width; k += kStep) {
    if (kHasTime && k % (kCacheLine / kAhead) == 0)
      __builtin_prefetch(ahead + k * kAhead, 0, 2);
    AddPart<0>(w + k * kTile, codes + k * kCodeBytes, stride, sums);
    if constexpr (kCodeBytes == 2) AddPart<1>(w + k * kTile, codes + k * kCodeBytes, stride, sums);
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
  Floats totals[kRows][2] = {};
  for (int64_t group = 0; group < weight.groups; ++group) {
    const int64_t k = group * weight.group;
    const int64_t width = stride - k < weight.group ? stride - k : weight.group;
    Ints sums[kRows][2];
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row)
      sums[row][0] = sums[row][1] = codes.start[row * weight.groups + group] - Ints{};
    Accumulate<kRows>(w + k * kTile, codes.codes + k * kCodeBytes, stride, width,
                      ahead + k * kAhead, sums);
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
      const int64_t column = part * kLanes;
      const Floats scale = Load(weight.scale + tile * kTile + column);
      StoreUpTo(to.y + row * to.stride + column, totals[row][part] * scale, to.count - column);
    }
}

// One vector of output channels of a token that is two rows, from a column of a tile on.
inline void FinishPair(const float *scales, Ints sums, Ints residual_sums, float peak,
                       int64_t column, const Columns &to) {
  const Floats scale = Load(scales + column);
  const Floats more = ToFloats(residual_sums) * scale * kResidualShare;
  StoreUpTo(to.y + column, (ToFloats(sums) * scale + more) * peak, to.count - column);
}

// The same for rows of which two are one token.
template <int kRows>
void MultiplyPairs(const PackedWeight &weight, int64_t tile, const Codes &codes,
                   const uint8_t *ahead, const Columns &to) {
  const int64_t stride = weight.steps * kStep;
  Ints sums[kRows][2];
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row)
    sums[row][0] = sums[row][1] = codes.start[row] - Ints{};
  Accumulate<kRows>(weight.codes + tile * stride * kTile, codes.codes, stride, stride, ahead,
                    sums);
#pragma GCC unroll 16
  for (int row = 0; row < kRows; row += 2)
#pragma GCC unroll 2
    for (int part = 0; part < 2; ++part)
      FinishPair(weight.scale + tile * kTile, sums[row][part], sums[row + 1][part],
                 codes.peaks[row / 2], part * kLanes, to.From(row / 2));
}

template <bool kIsW8A16, int kTokens = kRowsAtOnce / (1 + kIsW8A16)>
void MultiplySome(const PackedWeight &weight, int64_t tile, const Codes &codes, int64_t tokens,
                  const uint8_t *ahead, const Columns &to) {
  if constexpr (kTokens > 1)
    if (tokens < kTokens)
      return MultiplySome<kIsW8A16, kTokens - 1>(weight, tile, codes, tokens, ahead, to);
  if constexpr (kIsW8A16)
    MultiplyPairs<2 * kTokens>(weight, tile, codes, ahead, to);
  else
    MultiplyRows<kTokens>(weight, tile, codes, ahead, to);
}

// In the fewest passes that registers allow, of as many tokens each.
template <bool kIsW8A16>
void MultiplyAll(const PackedWeight &weight, int64_t tile, const Codes &codes, int64_t tokens,
                 const Columns &to) {
  constexpr int64_t kMost = kRowsAtOnce / (1 + kIsW8A16);
  const int64_t passes = (tokens + kMost - 1) / kMost;
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t first = pass * tokens / passes, end = (pass + 1) * tokens / passes;
    MultiplySome<kIsW8A16>(weight, tile, From(codes, weight, first, kCodeBytes, 1 + kIsW8A16), end - first,
                        Ahead(weight, tile, pass), to.From(first));
  }
}

void Multiply(const PackedWeight &weight, int64_t tile, const Codes &codes, int64_t tokens,
              const Columns &to) {
  MultiplyAll<false>(weight, tile, codes, tokens, to);
}

void MultiplyW8A16(const PackedWeight &weight, int64_t tile, const Codes &codes, int64_t tokens,
                    const Columns &to) {
  MultiplyAll<true>(weight, tile, codes, tokens, to);
}
