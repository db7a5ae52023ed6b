// AVX2 with VNNI: Intel's laptops and small computers since Alder Lake, which lack AVX-512.

#include "kernels.h"

#if defined(__x86_64__)

// The tests compile the same in AVX-512's encoding, for processors that have only that one.
#ifdef TINYLLAMA_ROS_TEST_EVEX
#pragma GCC target("avx2,fma,avx512vl,avx512vnni")
#define TINYLLAMA_ROS_DOT _mm256_dpbusd_epi32
#define TINYLLAMA_ROS_VNNI "avx512vnni"
#else
#pragma GCC target("avx2,fma,avxvnni")
#define TINYLLAMA_ROS_DOT _mm256_dpbusd_avx_epi32
#define TINYLLAMA_ROS_VNNI "avxvnni"
#endif
#include <immintrin.h>

namespace tinyllama_ros {
namespace {

constexpr char kInstructions[] = "AVX2 VNNI";
constexpr int kLanes = 8;
constexpr int kRowsAtOnce = 4;
constexpr int kAttendRows = 48;
constexpr int kMixedRows = 2, kMixedVectors = 4;
typedef float Floats __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));

inline Ints Dot(Ints sum, Ints weights, Ints codes) {
  return (Ints)TINYLLAMA_ROS_DOT((__m256i)sum, (__m256i)weights, (__m256i)codes);
}

inline Floats Fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

inline Ints Round(Floats x) { return (Ints)_mm256_cvtps_epi32(x); }

inline __m256i First(int64_t count) {
  const Ints lanes = {0, 1, 2, 3, 4, 5, 6, 7};
  return (__m256i)(lanes < static_cast<int32_t>(count));
}

inline Floats LoadFirst(const float *p, int64_t count) {
  return _mm256_maskload_ps(p, First(count));
}

inline void StoreFirst(float *p, Floats x, int64_t count) {
  _mm256_maskstore_ps(p, First(count), x);
}

#include "kernels_body.h"

}  // namespace

const Kernels *AvxVnniKernels() {
  const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                   __builtin_cpu_supports(TINYLLAMA_ROS_VNNI);
  return has ? &kKernels : nullptr;
}

}  // namespace tinyllama_ros

#else

const tinyllama_ros::Kernels *tinyllama_ros::AvxVnniKernels() { return nullptr; }

#endif
