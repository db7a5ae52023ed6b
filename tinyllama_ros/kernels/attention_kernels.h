// Attention of one chunk, over the cache. Part of kernels_body.h.

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
