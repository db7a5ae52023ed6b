// AVX-512 with VNNI: Intel since Ice Lake, AMD since Zen 4; and AMX on top of it: Intel's servers
// since Sapphire Rapids.

#include "kernels.h"

#if defined(__x86_64__)

#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,amx-tile,amx-int8")
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace tinyllama_ros {
namespace {

constexpr char kInstructions[] = "AVX-512 VNNI";
constexpr int kLanes = 16;
constexpr int kRowsAtOnce = 12;
constexpr int kAttendRows = 48;
constexpr int kMixedRows = 6, kMixedVectors = 4;
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));

#include "byte_codes.h"

inline Ints Dot(Ints sums, Ints weights, Ints codes) {
  return (Ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)weights, (__m512i)codes);
}

inline Floats Fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

inline Ints Round(Floats x) { return (Ints)_mm512_cvtps_epi32(x); }

inline Floats LoadFirst(const float *p, int64_t count) {
  return _mm512_maskz_loadu_ps((1 << count) - 1, p);
}

inline void StoreFirst(float *p, Floats x, int64_t count) {
  _mm512_mask_storeu_ps(p, (1 << count) - 1, x);
}

#include "kernels_body.h"
#include "amx_kernels.h"

}  // namespace

const Kernels *Avx512Kernels() {
  const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512vnni");
  if (!has) return nullptr;
  static const bool has_tiles = HasTiles();
  return has_tiles ? &kTileKernels : &kKernels;
}

}  // namespace tinyllama_ros

#else

const tinyllama_ros::Kernels *tinyllama_ros::Avx512Kernels() { return nullptr; }

#endif
