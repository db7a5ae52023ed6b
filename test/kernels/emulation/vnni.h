// VPDPBUSD of 256 bits in plain C++, for processors that lack AVX-VNNI: included before a source
// (g++ -include), it replaces the intrinsic.

#pragma once

#include <cstdint>
#include <cstring>

#include <immintrin.h>

namespace emulated {

// sums (8) += the products of four weights (8, 4), unsigned, and four codes (8, 4), signed
__attribute__((target("avx2"))) inline __m256i MultiplyBytes(__m256i sums, __m256i weights,
                                                             __m256i codes) {
  int32_t totals[8];
  uint8_t w[32];
  int8_t c[32];
  std::memcpy(totals, &sums, sizeof totals);
  std::memcpy(w, &weights, sizeof w);
  std::memcpy(c, &codes, sizeof c);
  for (int i = 0; i < 32; ++i) totals[i / 4] += w[i] * c[i];
  std::memcpy(&sums, totals, sizeof totals);
  return sums;
}

}  // namespace emulated

#define _mm256_dpbusd_avx_epi32(sums, weights, codes) \
  emulated::MultiplyBytes(sums, weights, codes)

// The processor says that it has the instruction.
#define __builtin_cpu_supports(feature) \
  (std::strcmp(feature, "avxvnni") == 0 || __builtin_cpu_supports(feature))
