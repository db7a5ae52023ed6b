// AMX in plain C++, for processors that lack it: included before a source (g++ -include), it
// replaces the intrinsics. It aborts where the manual demands a fault: at a configuration that is
// not valid, or a register that is used without one.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace emulated {

struct Config {
  uint8_t palette, first_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(Config) == 64);

inline thread_local Config config = {};
inline thread_local uint8_t registers[8][16][64];

inline void Require(bool is_so) {
  if (!is_so) std::abort();
}

inline void Configured(int tile) { Require(config.palette == 1 && config.rows[tile] != 0); }

inline void LoadConfig(const void *memory) {
  std::memcpy(&config, memory, sizeof config);
  Require(config.palette == 1 && config.first_row == 0);
  for (uint8_t byte : config.reserved) Require(byte == 0);
  for (int tile = 0; tile < 16; ++tile) {
    Require(config.rows[tile] <= (tile < 8 ? 16 : 0));
    Require(config.row_bytes[tile] <= (tile < 8 ? 64 : 0));
    Require((config.rows[tile] == 0) == (config.row_bytes[tile] == 0));
  }
  std::memset(registers, 0, sizeof registers);
}

inline void Zero(int tile) {
  Configured(tile);
  std::memset(registers[tile], 0, sizeof registers[tile]);
}

inline void Load(int tile, const void *base, int64_t stride) {
  Configured(tile);
  Zero(tile);
  for (int row = 0; row < config.rows[tile]; ++row)
    std::memcpy(registers[tile][row], static_cast<const char *>(base) + row * stride,
                config.row_bytes[tile]);
}

inline void Store(int tile, void *base, int64_t stride) {
  Configured(tile);
  for (int row = 0; row < config.rows[tile]; ++row)
    std::memcpy(static_cast<char *>(base) + row * stride, registers[tile][row],
                config.row_bytes[tile]);
}

// sum (m, n) += codes (m, 4 k) * weights (k, 4 n)
inline void Multiply(int sum, int codes, int weights) {
  Configured(sum);
  Configured(codes);
  Configured(weights);
  Require(config.rows[sum] == config.rows[codes]);
  Require(config.row_bytes[sum] == config.row_bytes[weights]);
  Require(config.row_bytes[codes] == 4 * config.rows[weights]);
  for (int m = 0; m < config.rows[sum]; ++m)
    for (int n = 0; n < config.row_bytes[sum] / 4; ++n) {
      int32_t total;
      std::memcpy(&total, registers[sum][m] + 4 * n, 4);
      for (int k = 0; k < config.rows[weights]; ++k)
        for (int i = 0; i < 4; ++i)
          total += static_cast<int8_t>(registers[codes][m][4 * k + i]) *
                   registers[weights][k][4 * n + i];
      std::memcpy(registers[sum][m] + 4 * n, &total, 4);
    }
}

}  // namespace emulated

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbsud
#define _tile_loadconfig(memory) emulated::LoadConfig(memory)
#define _tile_release() (emulated::config = {})
#define _tile_zero(tile) emulated::Zero(tile)
#define _tile_loadd(tile, base, stride) emulated::Load(tile, base, stride)
#define _tile_stored(tile, base, stride) emulated::Store(tile, base, stride)
#define _tile_dpbsud(sum, codes, weights) emulated::Multiply(sum, codes, weights)

// Linux gives its permission, and the processor says that it has the instructions.
#define syscall(...) 0
#define __builtin_cpu_supports(feature) \
  (std::strncmp(feature, "amx-", 4) == 0 || __builtin_cpu_supports(feature))
