// AVX2 with VNNI: Intel's laptops and small computers since Alder Lake, which lack AVX-512.

#include "kernels.h"

#if defined(__x86_64__)

#pragma GCC target("avx2,fma,avxvnni")
#include <immintrin.h>

namespace tinyllama_ros {
namespace {

constexpr char kInstructions[] = "AVX2 VNNI";
constexpr int kRowsAtOnce = 4;

#include "avx2_vectors.h"
#include "byte_codes.h"

inline Ints Dot(Ints sums, Ints weights, Ints codes) {
  return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)weights, (__m256i)codes);
}

#include "kernels_body.h"

}  // namespace

const Kernels *AvxVnniKernels() {
  const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                   __builtin_cpu_supports("avxvnni");
  return has ? &kKernels : nullptr;
}

}  // namespace tinyllama_ros

#else

const tinyllama_ros::Kernels *tinyllama_ros::AvxVnniKernels() { return nullptr; }

#endif
