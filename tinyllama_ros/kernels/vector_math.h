// Vectors of floats and integers: load, store, reduce, e^x. Part of kernels_body.h.

typedef float LooseFloats __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int32_t LooseInts __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Floats Load(const float *p) { return *reinterpret_cast<const LooseFloats *>(p); }
inline void Store(float *p, Floats x) { *reinterpret_cast<LooseFloats *>(p) = x; }
inline Ints LoadInts(const uint8_t *p) { return *reinterpret_cast<const LooseInts *>(p); }
inline Floats All(float x) { return x - Floats{}; }
inline Floats Larger(Floats a, Floats b) { return a > b ? a : b; }
inline Floats ToFloats(Ints x) { return __builtin_convertvector(x, Floats); }

// Exchanges the halves of every 2 kHalf lanes.
template <int kHalf, typename Vector>
inline Vector Swap(Vector x) {
  Ints other;
  for (int i = 0; i < kLanes; ++i) other[i] = i ^ kHalf;
  return __builtin_shuffle(x, other);
}

template <int kHalf = kLanes / 2>
inline float Largest(Floats x) {
  if constexpr (kHalf > 0) return Largest<kHalf / 2>(Larger(x, Swap<kHalf>(x)));
  return x[0];
}

template <int kHalf = kLanes / 2, typename Vector>
inline auto Sum(Vector x) {
  if constexpr (kHalf > 0) return Sum<kHalf / 2>(x + Swap<kHalf>(x));
  else return x[0];
}

// e^x to about 1 ulp, 0 below e^-87: x = n ln 2 + r, e^r by its series up to r^7.
inline Floats Exp(Floats x) {
  constexpr float kLowest = -87, kHighest = 88;
  const Floats bounded = Larger(All(kLowest), x < kHighest ? x : All(kHighest));
  const Ints n = Round(bounded * 1.44269504f);
  const Floats whole = ToFloats(n);
  const Floats r = Fma(whole, All(1.42860677e-6f), Fma(whole, All(-0.693148613f), bounded));
  constexpr float kSeries[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1, 1};
  Floats series = All(1.0f / 5040);
  for (float factor : kSeries) series = Fma(series, r, All(factor));
  const Floats power = reinterpret_cast<Floats>((n + 127) << 23);
  return x < kLowest ? Floats{} : series * power;
}

inline Floats LoadUpTo(const float *p, int64_t count) {
  return count < kLanes ? LoadFirst(p, count) : Load(p);
}

inline void StoreUpTo(float *p, Floats x, int64_t count) {
  if (count >= kLanes)
    Store(p, x);
  else if (count > 0)
    StoreFirst(p, x, count);
}
