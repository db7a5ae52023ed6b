// Vectors of 256 bits: what the kernels for AVX2 have in common, with VNNI and without.

constexpr int kLanes = 8;
constexpr int kAttendRows = 48;
constexpr int kMixedRows = 2, kMixedVectors = 4;
typedef float Floats __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));

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
