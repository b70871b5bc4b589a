// Vectors of LANES floats, loads and stores in the two storage types, and the activations.
//
// Everything is written with the compilers' vector extension: one source, and the instruction set is the one the
// file is compiled for. Arithmetic is always float32; bfloat16 is a storage type only.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512BW__)
#define LANES 16
#define REGISTERS 32
#elif defined(__AVX2__)
#define LANES 8
#define REGISTERS 16
#else
#define LANES 4
#define REGISTERS 16
#endif

#define INLINE_LAMBDA __attribute__((always_inline))
#define INLINE inline INLINE_LAMBDA

typedef float V __attribute__((vector_size(4 * LANES)));
typedef int32_t VInt __attribute__((vector_size(4 * LANES)));
typedef uint32_t VBits __attribute__((vector_size(4 * LANES)));
typedef uint16_t VHalf __attribute__((vector_size(2 * LANES)));

// Holds v in a register: GCC would repeat an unaligned load as the memory operand of every multiplication it goes into.
INLINE V in_register(V v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__AVX__)
  asm("" : "+x"(v));
#endif
  return v;
}

struct bf16 {
  uint16_t bits;
};

INLINE V splat(float x) { return x - V{}; }  // not V{} + x, which -0 makes an addition

INLINE V load(const float* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

INLINE V load(const bf16* p) {
#if LANES == 16  // GCC widens half by half, with six instructions for these two
  return (V)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
#else
  VHalf half;
  std::memcpy(&half, p, sizeof half);
  return (V)(__builtin_convertvector(half, VBits) << 16);
#endif
}

INLINE void store(float* p, V v) { std::memcpy(p, &v, sizeof v); }

// Round to nearest, ties to even, as PyTorch does; NaN stays NaN.
INLINE void store(bf16* p, V v) {
  VBits bits = (VBits)v;
  VBits rounded = bits + 0x7fff + ((bits >> 16) & 1);
  rounded = (v != v) ? (bits | 0x400000) : rounded;
  const VHalf half = __builtin_convertvector(rounded >> 16, VHalf);
  std::memcpy(p, &half, sizeof half);
}

// The first n of LANES elements; the rest of the vector is zero. n == LANES costs nothing once inlined.
template <class T>
INLINE V load(const T* p, int n) {
  if (n == LANES) return load(p);
  T part[LANES] = {};
  std::memcpy(part, p, n * sizeof(T));
  return load(part);
}

template <class T>
INLINE void store(T* p, V v, int n) {
  if (n == LANES) return store(p, v);
  T part[LANES];
  store(part, v);
  std::memcpy(p, part, n * sizeof(T));
}

// Half of a vector: the first (which = 0) or the second one.
INLINE void load_half(V& v, int which, const float* p) {
  std::memcpy((char*)&v + which * sizeof v / 2, p, sizeof v / 2);
}

INLINE void store_half(float* p, V v, int which) { std::memcpy(p, (const char*)&v + which * sizeof v / 2, sizeof v / 2); }

// v with the lanes from n on set to zero.
INLINE V mask_tail(V v, int n) {
  if (n == LANES) return v;
  VInt lane;
  for (int i = 0; i < LANES; ++i) lane[i] = i;
  return lane < n ? v : V{};
}

// x between ±limit; NaN passes. Where compilers would compare and choose, as NaN matters, one instruction each.
INLINE V clamped(V x, float limit) {
#if LANES == 16
  return (V)_mm512_min_ps((__m512)splat(limit), _mm512_max_ps((__m512)splat(-limit), (__m512)x));
#elif LANES == 8
  return (V)_mm256_min_ps((__m256)splat(limit), _mm256_max_ps((__m256)splat(-limit), (__m256)x));
#else
  V c = x < -limit ? splat(-limit) : x;
  return c > limit ? splat(limit) : c;
#endif
}

INLINE double horizontal(V v) {
  double sum = 0;
  for (int i = 0; i < LANES; ++i) sum += v[i];
  return sum;
}

template <int N>
INLINE V horner(const float (&coefficient)[N], V t) {
  V p = splat(coefficient[N - 1]);
#pragma GCC unroll 20
  for (int i = N - 2; i >= 0; --i) p = p * t + coefficient[i];
  return p;
}

// GELU(x) = x Φ(x), Φ the normal distribution (arXiv 1606.08415; the erf form, not the tanh one).
// Φ(c) = 1/2 + c P(t) and GELU'(c) = Φ(c) + c φ(c) = 1/2 + c Q(t), both odd functions plus 1/2, with
// t = 2 c²/LIMIT² - 1 in [-1, 1] and c = x clamped to ±LIMIT. P and Q are minimax fits.
template <class Storage>
struct GeluFit;

// Largest absolute error of the float32 evaluation, over all x within ±(LIMIT + 1): 7.2e-7 in GELU, 2.5e-7 in its
// derivative.
template <>
struct GeluFit<float> {
  static constexpr float LIMIT = 5.75f;
  static constexpr float P[] = {0.122969206f,   -0.0614333438f,  0.0458631926f,     -0.0376329441f,
                                0.0317164216f,  -0.0265788531f,  0.0216619079f,     -0.0166870907f,
                                0.0120758734f,  -0.00890562424f, 0.00645709345f,    -0.00320889239f,
                                0.000959942674f, -0.00111762816f, 0.00124550807f,   -0.000428249845f};
  static constexpr float Q[] = {0.123071824f,  -0.0622814077f, 0.0493672245f,  -0.0472942364f, 0.0517064858f,
                                -0.0595244346f, 0.0667546019f, -0.0705782863f, 0.0693850123f,  -0.0593590405f,
                                0.0431631071f,  -0.0349288419f, 0.0316929481f, -0.0162198371f, 0.00106223382f,
                                -0.00283254145f, 0.00621703619f, -0.00244530449f};
};

// For what is stored with 8 bits: 4.6e-5 in GELU and 1.7e-4, beyond LIMIT, in its derivative; rounding at 1 is 3.9e-3.
template <>
struct GeluFit<bf16> {
  static constexpr float LIMIT = 4.25f;
  static constexpr float P[] = {0.165934891f,   -0.0807775483f, 0.0557330586f,   -0.039165277f, 0.0253226943f,
                                -0.0146163106f, 0.00922926422f, -0.00602775766f, 0.00201240741f};
  static constexpr float Q[] = {0.170307264f,   -0.100460082f, 0.0997188315f,  -0.106285997f, 0.105103441f,
                                -0.0831064656f, 0.04864043f,   -0.0364855863f, 0.033951465f,  -0.0136968708f};
};

template <class Storage>
struct Gelu {
  using Fit = GeluFit<Storage>;
  static INLINE V square(V c) { return c * c * (2 / (Fit::LIMIT * Fit::LIMIT)) - 1.0f; }
  static INLINE V value(V x) {
    V c = clamped(x, Fit::LIMIT);
    V phi = horner(Fit::P, square(c)) * c + 0.5f;
    return x * (x < -Fit::LIMIT ? V{} : phi);  // Φ exactly 0, so that GELU(-inf) is NaN as in erf arithmetic
  }
  static INLINE V slope(V x) {
    V c = clamped(x, Fit::LIMIT);
    return horner(Fit::Q, square(c)) * c + 0.5f;
  }
};

template <class>
struct Relu {
  static INLINE V value(V x) { return x < 0.0f ? V{} : x; }  // NaN stays NaN
  static INLINE V slope(V x) { return x <= 0.0f ? V{} : splat(1.0f); }
};
