// The product by AMX, for chunks: a register holds 16 rows of 64 bytes, and one instruction
// multiplies two of them. Source: Intel 64 and IA-32 Architectures Software Developer's Manual,
// volume 1, chapter 18, and volume 2, TDPBSUD.

constexpr int kTileRows = 16, kTileBytes = 64;

struct TileConfig {
  uint8_t palette, first_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

// Registers 0 to 3 sum 32 rows of codes by 32 columns; 4 and 5 hold codes, 6 and 7 weights.
constexpr TileConfig kTileConfig = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64},
                                    {16, 16, 16, 16, 16, 16, 16, 16}};

// The intrinsics do not tell the compiler what they read: whatever this points to is in memory now.
inline void Settle(const void *memory) { __asm__ volatile("" : : "r"(memory) : "memory"); }

// 32 rows of codes, and the columns of one tile, from input channel `first` to `end`.
inline void SumTiles(const PackedWeight &weight, int64_t tile, const int8_t *codes, int64_t first,
                     int64_t end, Ints (&sums)[2][2][kTileRows]) {
  const int64_t stride = weight.steps * kStep;
  const uint8_t *w = weight.codes + (tile * stride + first) * kTile;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k = first; k < end; k += kTileBytes, w += kTileRows * kTile * kStep) {
    _tile_loadd(4, codes + k, stride);
    _tile_loadd(5, codes + kTileRows * stride + k, stride);
    _tile_loadd(6, w, kTile * kStep);
    _tile_loadd(7, w + kTileBytes, kTile * kStep);
    _tile_dpbsud(0, 4, 6);
    _tile_dpbsud(1, 4, 7);
    _tile_dpbsud(2, 5, 6);
    _tile_dpbsud(3, 5, 7);
  }
  _tile_stored(0, sums[0][0], kTileBytes);
  _tile_stored(1, sums[0][1], kTileBytes);
  _tile_stored(2, sums[1][0], kTileBytes);
  _tile_stored(3, sums[1][1], kTileBytes);
}

// The columns of a tile for 32 tokens.
void MultiplyTiles(const PackedWeight &weight, int64_t tile, const Codes &codes,
                   const Columns &to) {
  const int64_t width = weight.steps * kStep;
  Floats totals[2][2][kTileRows] = {};
  for (int64_t group = 0; group < weight.groups; ++group) {
    const int64_t first = group * weight.group;
    const int64_t end = width - first < weight.group ? width : first + weight.group;
    Ints sums[2][2][kTileRows];
    SumTiles(weight, tile, codes.codes, first, end, sums);
    for (int row = 0; row < 2 * kTileRows; ++row)
      for (int part = 0; part < 2; ++part) {
        const int64_t at = row * weight.groups + group;
        Floats &total = totals[row / kTileRows][part][row % kTileRows];
        const Ints sum = sums[row / kTileRows][part][row % kTileRows] + codes.start[at];
        total = Fma(ToFloats(sum), All(codes.peaks[at]), total);
      }
  }
  for (int row = 0; row < 2 * kTileRows; ++row)
    for (int part = 0; part < 2; ++part) {
      const int64_t column = part * kLanes;
      const Floats scale = Load(weight.scale + tile * kTile + column);
      StoreUpTo(to.y + row * to.stride + column,
                totals[row / kTileRows][part][row % kTileRows] * scale, to.count - column);
    }
}

// The same for 16 tokens, each of them two rows.
void MultiplyTilesW8A16(const PackedWeight &weight, int64_t tile, const Codes &codes,
                         const Columns &to) {
  Ints sums[2][2][kTileRows];
  SumTiles(weight, tile, codes.codes, 0, weight.steps * kStep, sums);
  for (int row = 0; row < 2 * kTileRows; row += 2)
    for (int part = 0; part < 2; ++part) {
      const Ints *pair = &sums[row / kTileRows][part][row % kTileRows];
      FinishPair(weight.scale + tile * kTile, pair[0] + codes.start[row],
                 pair[1] + codes.start[row + 1], codes.peaks[row / 2], part * kLanes,
                 to.From(row / 2));
    }
}

// Tokens that fill the registers by tiles. What is left goes by AVX-512 if that is one pass, else by
// tiles with some tokens before it, which then are computed a second time.
template <int kRowsOfToken>
void MultiplyByTiles(const PackedWeight &weight, int64_t tile, const Codes &codes, int64_t tokens,
                     const Columns &to) {
  constexpr int64_t kTokens = 2 * kTileRows / kRowsOfToken;
  constexpr auto by_tiles = kRowsOfToken == 1 ? MultiplyTiles : MultiplyTilesW8A16;
  constexpr auto by_rows = kRowsOfToken == 1 ? Multiply : MultiplyW8A16;
  int64_t done = 0;
  if (tokens >= kTokens && weight.steps * kStep % kTileBytes == 0 &&
      weight.group % kTileBytes == 0) {
    Settle(codes.codes);
    Settle(weight.codes);
    _tile_loadconfig(&kTileConfig);
    for (; tokens - done >= kTokens; done += kTokens)
      by_tiles(weight, tile, From(codes, weight, done, kCodeBytes, kRowsOfToken), to.From(done));
    if ((tokens - done) * kRowsOfToken > kRowsAtOnce) {
      done = tokens - kTokens;
      by_tiles(weight, tile, From(codes, weight, done, kCodeBytes, kRowsOfToken), to.From(done));
      done = tokens;
    }
    _tile_release();
  }
  by_rows(weight, tile, From(codes, weight, done, kCodeBytes, kRowsOfToken), tokens - done, to.From(done));
}

constexpr Kernels kTileKernels = {"AMX", kTile, kCodeBytes, kAttendRows, Quantize, QuantizeW8A16, MultiplyByTiles<1>,
                                  MultiplyByTiles<2>, Rotate, Attend, Gate, Normalize};

// The processor has tiles, Linux lets this process use them, and they multiply as AVX-512 does: the
// last is asked because this was written without such a processor at hand.
bool HasTiles() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // Documentation/arch/x86/xstate.rst
  if (!__builtin_cpu_supports("amx-tile") || !__builtin_cpu_supports("amx-int8") ||
      syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0)
    return false;
  constexpr int kTokens = 32, kIn = 2 * kTileBytes;
  int8_t codes[kTokens * kIn];
  uint8_t weights[kTile * kIn];
  for (int i = 0; i < kTokens * kIn; ++i) codes[i] = static_cast<int8_t>(i * 37 + i / 256);
  for (int i = 0; i < kTile * kIn; ++i) weights[i] = static_cast<uint8_t>(i * 91 + i / 128);
  int32_t start[kTokens] = {};
  float scale[kTile], peaks[kTokens];
  for (float &each : scale) each = 1;
  for (float &each : peaks) each = 1;
  const PackedWeight packed = {kIn, kTile, kIn / kStep, 1, kIn, 1, weights, scale};
  float expected[kTokens * kTile], found[kTokens * kTile];
  Multiply(packed, 0, {codes, start, peaks}, kTokens, {expected, kTile, kTile});
  MultiplyByTiles<1>(packed, 0, {codes, start, peaks}, kTokens, {found, kTile, kTile});
  return __builtin_memcmp(found, expected, sizeof found) == 0;
}
