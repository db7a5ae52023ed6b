// The product by AMX, for chunks: a register holds 16 rows of 64 bytes, and one instruction
// multiplies two of them. Source: Intel 64 and IA-32 Architectures Software Developer's Manual,
// volume 1, chapter 18, and volume 2, TDPBUSD.

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

// 32 rows of codes.
template <bool kFine>
void MultiplyTiles(const PackedWeight &weight, int64_t tile, const uint8_t *codes,
                   const float *peaks, float *y) {
  const int64_t stride = weight.steps * kStep;
  const int8_t *w = weight.codes + tile * weight.steps * kTile * kStep;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k = 0; k < stride; k += kTileBytes, w += kTileRows * kTile * kStep) {
    _tile_loadd(4, codes + k, stride);
    _tile_loadd(5, codes + kTileRows * stride + k, stride);
    _tile_loadd(6, w, kTile * kStep);
    _tile_loadd(7, w + kTileBytes, kTile * kStep);
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  Ints sums[2][2][kTileRows];
  _tile_stored(0, sums[0][0], kTileBytes);
  _tile_stored(1, sums[0][1], kTileBytes);
  _tile_stored(2, sums[1][0], kTileBytes);
  _tile_stored(3, sums[1][1], kTileBytes);
  for (int half = 0; half < 2; ++half)
    for (int row = 0; row < kTileRows; row += 1 + kFine) {
      const int64_t token = (half * kTileRows + row) / (1 + kFine);
      for (int part = 0; part < 2; ++part)
        Finish<kFine>(weight, tile * kTile + part * kLanes, sums[half][part][row],
                      sums[half][part][row + kFine], peaks[token], y + token * weight.out);
    }
}

template <bool kFine>
void MultiplyByTiles(const PackedWeight &weight, int64_t tile, const uint8_t *codes,
                     const float *peaks, int64_t tokens, float *y) {
  constexpr int64_t kTokens = 2 * kTileRows / (1 + kFine);
  int64_t done = 0;
  if (tokens >= kTokens && weight.steps * kStep % kTileBytes == 0) {
    Settle(codes);
    Settle(weight.codes);
    _tile_loadconfig(&kTileConfig);
    for (; tokens - done >= kTokens; done += kTokens)
      MultiplyTiles<kFine>(weight, tile, codes + done * weight.steps * kStep * (1 + kFine),
                           peaks + done, y + done * weight.out);
    _tile_release();
  }
  Multiply(weight, tile, codes + done * weight.steps * kStep * (1 + kFine), peaks + done,
           tokens - done, kFine, y + done * weight.out);
}

constexpr Kernels kTileKernels = {
    "AMX", kAttendRows, Pack, Quantize,
    [](const PackedWeight &weight, int64_t tile, const uint8_t *codes, const float *peaks,
       int64_t tokens, bool is_fine, float *y) {
      is_fine ? MultiplyByTiles<true>(weight, tile, codes, peaks, tokens, y)
              : MultiplyByTiles<false>(weight, tile, codes, peaks, tokens, y);
    },
    Rotate, Attend, Gate};

// The processor has tiles, Linux lets this process use them, and they multiply as AVX-512 does: the
// last is asked because this was written without such a processor at hand.
bool HasTiles() {
#ifndef TINYLLAMA_ROS_TEST_AMX
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // Documentation/arch/x86/xstate.rst
  if (!__builtin_cpu_supports("amx-tile") || !__builtin_cpu_supports("amx-int8") ||
      syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0)
    return false;
#endif
  constexpr int kTokens = 32, kIn = 2 * kTileBytes;
  uint8_t codes[kTokens * kIn];
  int8_t weights[kTile * kIn];
  for (int i = 0; i < kTokens * kIn; ++i) codes[i] = static_cast<uint8_t>(i * 37 + i / 256);
  for (int i = 0; i < kTile * kIn; ++i) weights[i] = static_cast<int8_t>(i * 91 + i / 128);
  const int32_t start[kTile] = {};
  float scale[kTile], peaks[kTokens];
  for (float &each : scale) each = 1;
  for (float &each : peaks) each = 1;
  const PackedWeight packed = {kIn, kTile, kIn / kStep, 1, weights, start, scale};
  float expected[kTokens * kTile], found[kTokens * kTile];
  Multiply(packed, 0, codes, peaks, kTokens, false, expected);
  MultiplyByTiles<false>(packed, 0, codes, peaks, kTokens, found);
  return __builtin_memcmp(found, expected, sizeof found) == 0;
}
