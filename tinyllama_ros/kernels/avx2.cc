// AVX2 without VNNI: Intel since Haswell (2013), AMD since Zen. Bytes are widened to 16 bits, since
// the instruction of AVX2 that multiplies bytes saturates its sums of two (VPMADDUBSW).

#include "kernels.h"

#if defined(__x86_64__)

#pragma GCC target("avx2,fma")
#include <immintrin.h>

namespace tinyllama_ros {
namespace {

constexpr char kInstructions[] = "AVX2";
constexpr int kRowsAtOnce = 6;

#include "avx2_vectors.h"

// A code has 16 bits. The first part of a step is its input channels 0 and 2, the second 1 and 3:
// of the weights, these are the low and the high bytes of 16 bits.
constexpr int kCodeBytes = 2;

typedef int16_t Shorts __attribute__((vector_size(16)));

inline Shorts PackCodes(Ints codes) {
  return __builtin_shuffle(__builtin_convertvector(codes, Shorts),
                           Shorts{0, 2, 1, 3, 4, 6, 5, 7});
}

template <int part>
inline Ints LoadPart(const int8_t *codes) {
  int32_t two;
  __builtin_memcpy(&two, codes + part * sizeof two, sizeof two);
  return two - Ints{};
}

template <int part>
inline Ints Part(Ints weights) {
  return part ? (Ints)_mm256_srli_epi16((__m256i)weights, 8) : weights & 0x00ff00ff;
}

inline Ints Dot(Ints sums, Ints weights, Ints codes) {
  sums += (Ints)_mm256_madd_epi16((__m256i)weights, (__m256i)codes);
  // Keeps the order of the sums: in GCC's own order, products wait for registers.
  __asm__("" : "+x"(sums));
  return sums;
}

#include "kernels_body.h"

}  // namespace

const Kernels *Avx2Kernels() {
  const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return has ? &kKernels : nullptr;
}

}  // namespace tinyllama_ros

#else

const tinyllama_ros::Kernels *tinyllama_ros::Avx2Kernels() { return nullptr; }

#endif
