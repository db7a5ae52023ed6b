// Codes of one byte each, for instructions that multiply bytes (VNNI).

constexpr int kCodeBytes = 1;

typedef int8_t Bytes __attribute__((vector_size(kLanes)));

inline Bytes PackCodes(Ints codes) { return __builtin_convertvector(codes, Bytes); }

template <int>
inline Ints LoadPart(const int8_t *codes) {
  int32_t four;
  __builtin_memcpy(&four, codes, kStep);
  return four - Ints{};
}

template <int>
inline Ints Part(Ints weights) {
  return weights;
}
