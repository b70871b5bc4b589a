// The product of a weight matrix with the channels of some positions, and what follows it in a unit of the network.
#pragma once

#include <cstdint>
#include <vector>

#include "vector.h"

constexpr int PANEL = 2 * LANES;                  // positions that are computed at once
constexpr int TALL = REGISTERS >= 32 ? 12 : 6;    // rows of the weight matrix at once, as many as the registers hold
constexpr int SHORT = 4;                          // the same for the rows that are left
constexpr int ABREAST = REGISTERS >= 32 ? 8 : 4;  // vectors whose activations are computed side by side

struct Identity {
  static INLINE V value(V x) { return x; }
};

// An activation of several vectors: step by step for all of them, as each one's steps wait for one another.
template <class Activation>
struct Several {
  template <int N>
  static INLINE void apply(V (&x)[N]) {
    for (V& v : x) v = Activation::value(v);
  }
};

template <class Storage>
struct Several<Gelu<Storage>> {
  template <int N>
  static INLINE void apply(V (&x)[N]) {
    using Fit = GeluFit<Storage>;
    constexpr int LAST = sizeof Fit::P / sizeof *Fit::P - 1;
    V c[N], t[N], p[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      c[n] = clamped(x[n], Fit::LIMIT);
      t[n] = Gelu<Storage>::square(c[n]);
      p[n] = splat(Fit::P[LAST]);
    }
#pragma GCC unroll 20
    for (int i = LAST - 1; i >= 0; --i)
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) p[n] = p[n] * t[n] + Fit::P[i];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) x[n] = x[n] * (x[n] < -Fit::LIMIT ? V{} : p[n] * c[n] + 0.5f);
  }
};

// What follows a convolution: the bias, an activation, a factor and a summand (batch normalisation).
struct Epilogue {
  std::vector<float> bias, scale, shift;
  // To vectors of ROWS channels from m on, as many of each.
  template <class Activation, int ROWS = 1, int N>
  INLINE void apply(V (&v)[N], int64_t m) const {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) v[n] += bias[m + n / (N / ROWS)];
    Several<Activation>::apply(v);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) v[n] = v[n] * scale[m + n / (N / ROWS)] + shift[m + n / (N / ROWS)];
  }
};

// The rows of a matrix (out, in) in the order in which they are multiplied: blocks of TALL rows, then of SHORT ones, the
// last filled up with zeros; in each block, column after column.
struct Packed {
  int64_t out = 0, in = 0;
  std::vector<float> values;

  Packed() = default;
  Packed(const float* weight, int64_t rows, int64_t columns) : out(rows), in(columns) {
    for (int64_t m = 0; m < out;) {
      const int rows_here = out - m >= TALL ? TALL : SHORT;
      for (int64_t k = 0; k < in; ++k)
        for (int r = 0; r < rows_here; ++r) values.push_back(m + r < out ? weight[(m + r) * in + k] : 0.0f);
      m += rows_here;
    }
  }
};

// Copies PANEL positions of `channels` rows that are `stride` apart.
static void take_panel(const float* x, int64_t stride, int64_t channels, float* panel) {
  for (int64_t k = 0; k < channels; ++k, x += stride, panel += PANEL)
    for (int i = 0; i < PANEL; i += LANES) store(panel + i, load(x + i));
}

// R rows of the product of a packed matrix with a panel [in][PANEL], to rows of y that are `stride` apart.
template <int R, class Activation>
static void multiply_rows(const float* a, const float* panel, int64_t in, const Epilogue& e, int64_t first, int64_t rows,
                          bool add, float* y, int64_t stride) {
  V sum[R][2] = {};
  for (int64_t k = 0; k < in; ++k, a += R, panel += PANEL) {
    const V b0 = in_register(load(panel)), b1 = in_register(load(panel + LANES));
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const V w = in_register(splat(a[r]));
      sum[r][0] += w * b0;
      sum[r][1] += w * b1;
    }
  }
  constexpr int TOGETHER = R % (ABREAST / 2) ? 2 : ABREAST / 2;  // rows
#pragma GCC unroll 16
  for (int r = 0; r < R; r += TOGETHER) {
    V v[2 * TOGETHER];
#pragma GCC unroll 16
    for (int n = 0; n < 2 * TOGETHER; ++n) v[n] = sum[r + n / 2][n % 2];
    e.apply<Activation, TOGETHER>(v, first + r);
#pragma GCC unroll 16
    for (int n = 0; n < 2 * TOGETHER; ++n) {
      if (r + n / 2 >= rows) return;
      float* to = y + (r + n / 2) * stride + n % 2 * LANES;
      store(to, add ? v[n] + load(to) : v[n]);
    }
  }
}

// y[m][PANEL] = epilogue(sum over k of weight[m][k] panel[k][PANEL]), added to y with `add`; rows of y are `stride` apart.
template <class Activation>
static void multiply_panel(const Packed& weight, const float* panel, const Epilogue& e, bool add, float* y,
                           int64_t stride) {
  const float* a = weight.values.data();
  for (int64_t m = 0; m < weight.out;) {
    const int64_t left = weight.out - m;
    if (left >= TALL) {
      multiply_rows<TALL, Activation>(a, panel, weight.in, e, m, TALL, add, y + m * stride, stride);
      m += TALL, a += TALL * weight.in;
    } else {
      multiply_rows<SHORT, Activation>(a, panel, weight.in, e, m, left, add, y + m * stride, stride);
      m += SHORT, a += SHORT * weight.in;
    }
  }
}
