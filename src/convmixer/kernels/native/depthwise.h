// Depthwise convolution of one channel: zero-padded rows, forward (also the input gradient, with the kernel turned by
// 180 degrees) and weight gradient, for any image size and odd kernels of 3 to 15.
#pragma once

#include <algorithm>
#include <cstddef>

#include "vector.h"

// How the images of a channel lie in a padded plane. A row of the plane holds r zeros, then one row of `abreast` images
// with r zeros between them, filled up with zeros to whole vectors; the zeros that open the next row close this one.
// Narrow images go several abreast, so that a vector is not mostly padding.
struct Geometry {
  int64_t images, height, width;
  int kernel, radius;
  int64_t abreast = 1, lanes = 0, stride = 0, groups = 0;  // lanes: of a row without the r zeros; stride: with them

  Geometry(int64_t n, int64_t h, int64_t w, int k) : images(n), height(h), width(w), kernel(k), radius(k / 2) {
    double best = 0;
    for (int64_t a = 1; a <= std::min<int64_t>(n, 16); ++a) {
      int64_t used = (a * w + (a - 1) * radius + LANES - 1) / LANES * LANES;
      double efficiency = double(a * w) / double(used);
      if (efficiency > best * 1.02) best = efficiency, abreast = a, lanes = used;
    }
    stride = radius + lanes;
    groups = (n + abreast - 1) / abreast;
  }
  int64_t pixels() const { return height * width; }
  int64_t size(int64_t of_groups) const { return of_groups * height * stride + radius + LANES; }
  int64_t columns() const { return groups * (lanes / LANES); }
  // Offset of the first lane of a column of vectors, as seen by a tap at the left end of the kernel.
  int64_t column(int64_t q) const {
    int64_t per_group = lanes / LANES;
    return q / per_group * height * stride + q % per_group * LANES;
  }
};

// f(where it lies in the compact plane, where in the padded one) for each of the first `count` images.
template <class F>
INLINE void for_each_map(const Geometry& g, int64_t count, F f) {
  int64_t compact = 0, group = g.radius;
  for (int64_t first = 0; first < count; first += g.abreast, group += g.height * g.stride)
    for (int64_t i = 0; i < std::min(g.abreast, count - first); ++i, compact += g.pixels())
      f(compact, group + i * (g.width + g.radius));
}

// A padded plane, and how many images it was last laid out for.
struct Padded {
  float* plane;
  int64_t images = 0;
};

// Compact plane [images][height][width] → padded plane of scale · value + shift; the padding is zero. `plane` is
// readable for LANES floats beyond its end.
static void pack(const Geometry& g, const float* plane, float scale, float shift, Padded& padded) {
  // Padding stays zero as long as the layout stays the same.
  if (padded.images != g.images) std::memset(padded.plane, 0, g.size(g.groups) * sizeof(float));
  padded.images = g.images;
  if (g.width == LANES / 2) {  // two rows are one vector
    for_each_map(g, g.images, [&](int64_t compact, int64_t offset) {
      const float* from = plane + compact;
      float* to = padded.plane + offset;
      for (int64_t y = 0; y < g.height; y += 2, from += LANES, to += 2 * g.stride) {
        V v = load(from) * scale + shift;
        store_half(to, v, 0);
        if (y + 1 < g.height) store_half(to + g.stride, v, 1);
      }
    });
    return;
  }
  // Rows are written from left to right in whole vectors: what spills over is zero, and lies where later writes go.
  float* target = padded.plane + g.radius;
  for (int64_t first = 0; first < g.images; first += g.abreast) {
    const int64_t last = std::min(g.abreast, g.images - first);
    for (int64_t y = 0; y < g.height; ++y, target += g.stride)
      for (int64_t i = 0; i < last; ++i) {
        const float* from = plane + (first + i) * g.pixels() + y * g.width;
        float* to = target + i * (g.width + g.radius);
        for (int64_t x = 0; x < g.width; x += LANES)
          store(to + x, mask_tail(load(from + x) * scale + shift, (int)std::min<int64_t>(LANES, g.width - x)));
      }
  }
}

// The images first … last - 1 of a padded plane that begins with image `first` → compact plane, which is writable for
// LANES floats beyond its end: every row spills into the next one, which is written later.
static void unpack(const Geometry& g, const float* padded, int64_t first, int64_t last, float* plane) {
  for_each_map(g, last - first, [&](int64_t compact, int64_t offset) {
    const float* from = padded + offset;
    float* to = plane + first * g.pixels() + compact;
    int64_t y = 0;
    if (g.width == LANES / 2)
      for (; y + 1 < g.height; y += 2, from += 2 * g.stride, to += LANES) {
        V v;
        load_half(v, 0, from);
        load_half(v, 1, from + g.stride);
        store(to, v);
      }
    for (; y < g.height; ++y, from += g.stride, to += g.width)
      for (int64_t x = 0; x < g.width; x += LANES) store(to + x, load(from + x));
  });
}

// The weights [K][K] of a kernel as convolve_columns takes them.
template <int K>
static void order_taps(const float* weight, bool turn, float* taps) {
  for (int dx = 0; dx < K; ++dx)
    for (int j = 0; j < K; ++j) taps[dx * K + j] = turn ? weight[j * K + K - 1 - dx] : weight[(K - 1 - j) * K + dx];
}

// Adds one input row, `place` behind source, to the sums FROM … TO - 1 of the K output rows in reach.
template <int K, int B, bool SAME, int FROM, int TO>
static INLINE void add_row(const float* const* source, int64_t place, const float* const* taps, V (&sum)[K][B]) {
#pragma GCC unroll 1  // more of it would be no faster
  for (int dx = 0; dx < K; ++dx) {
    V v[B];
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) v[b] = in_register(load(source[b] + place + dx));
#pragma GCC unroll 16
    for (int j = FROM; j < TO; ++j) {
      V w = splat(taps[0][dx * K + j]);
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) sum[j][b] += v[b] * (SAME ? w : splat(taps[b][dx * K + j]));
    }
  }
}

// B columns of vectors at once; finish(b, y, v) gets each of `height` output rows. `source` lies at the first of these
// rows, `above` rows of input are before them and `below` behind them, at most r each; what is farther away is zero.
// Every input row adds to the K output rows in reach, or to those of them that are asked for; their sums stay in
// registers and move up by one row with each input row, so that no row is loaded more often than once for each tap of a
// kernel row. taps[b][dx][j] is the weight from input row y and horizontal offset dx to output row y - r + j; with SAME,
// the first one's are those of all columns.
template <int K, int B, bool SAME, class Finish>
static INLINE void convolve_columns(const float* const* source, int64_t stride, int64_t height, int64_t above,
                                    int64_t below, const float* const* taps, Finish finish) {
  constexpr int r = K / 2;
  V sum[K][B] = {};
  auto move_up = [&](int64_t y) INLINE_LAMBDA {
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) {
      if (y >= r) finish(b, y - r, sum[0][b]);
#pragma GCC unroll 16
      for (int j = 0; j + 1 < K; ++j) sum[j][b] = sum[j + 1][b];
      sum[K - 1][b] = V{};
    }
  };
  int64_t y = -above;
  for (; y < 0; ++y) {  // of the rows in reach the first r + 1 are not asked for
    add_row<K, B, SAME, r + 1, K>(source, y * stride, taps, sum);
    move_up(y);
  }
  for (; y < height; ++y) {
    add_row<K, B, SAME, 0, K>(source, y * stride, taps, sum);
    move_up(y);
  }
  for (; y < height + r; ++y) {  // and here the last r + 1
    if (y < height + below) add_row<K, B, SAME, 0, r>(source, y * stride, taps, sum);
    move_up(y);
  }
}

// Weight gradient of kernel rows first … first + ROWS - 1 over the columns begin … end - 1, added to total[row][dx].
// x and g are padded planes; the zeros of g keep apart what lies abreast.
template <int K, int ROWS>
static void weight_gradient_rows(const Geometry& geometry, const float* x, const float* g, int first, int64_t begin,
                                 int64_t end, V* total) {
  const int r = K / 2;
  const int64_t height = geometry.height, stride = geometry.stride;
  V sum[ROWS][K] = {};
  for (int64_t q = begin; q < end; ++q) {
    const float* xq = x + geometry.column(q);
    const float* gq = g + geometry.column(q) + r;
    for (int64_t y = 0; y < height; ++y) {  // input row y meets output row y - (kernel row) + r
      V gradient[ROWS];
#pragma GCC unroll 16
      for (int i = 0; i < ROWS; ++i) {
        int64_t out = y - first - i + r;
        gradient[i] = out >= 0 && out < height ? load(gq + out * stride) : V{};
      }
#pragma GCC unroll 16
      for (int dx = 0; dx < K; ++dx) {
        V v = in_register(load(xq + y * stride + dx));
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; ++i) sum[i][dx] += v * gradient[i];
      }
    }
  }
  for (int i = 0; i < ROWS; ++i)
    for (int dx = 0; dx < K; ++dx) total[i * K + dx] += sum[i][dx];
}

constexpr int columns_at_once(int k) { return 4 * k + 5 <= REGISTERS ? 4 : 2 * k + 3 <= REGISTERS ? 2 : 1; }

template <int K>
struct Depthwise {
  // As many columns, and kernel rows, as the registers hold beside the operands of one step.
  static constexpr int WIDE = columns_at_once(K);
  static constexpr int ROWS = std::max(1, std::min(K, (REGISTERS - 1) / (K + 1)));

  // padded → compact plane `out`; `scratch` holds WIDE groups of padded images.
  static void convolve(const Geometry& g, const float* padded, const float* weight, bool turn, float* scratch,
                       float* out) {
    float taps[K * K];
    const float* const all = taps;
    order_taps<K>(weight, turn, taps);
    const int64_t per_group = g.lanes / LANES;
    for (int64_t group = 0; group < g.groups; group += WIDE) {
      const int64_t groups = std::min<int64_t>(WIDE, g.groups - group), columns = groups * per_group;
      for (int64_t q = 0; q < columns;) {
        const bool wide = columns - q >= WIDE;
        const float* source[WIDE];
        float* target[WIDE];
        for (int b = 0; b < (wide ? WIDE : 1); ++b) {
          source[b] = padded + g.column(group * per_group + q + b);
          target[b] = scratch + g.column(q + b) + g.radius;
        }
        auto keep = [&](int b, int64_t y, V v) INLINE_LAMBDA { store(target[b] + y * g.stride, v); };
        if (wide)
          convolve_columns<K, WIDE, true>(source, g.stride, g.height, 0, 0, &all, keep);
        else
          convolve_columns<K, 1, true>(source, g.stride, g.height, 0, 0, &all, keep);
        q += wide ? WIDE : 1;
      }
      unpack(g, scratch, group * g.abreast, std::min((group + groups) * g.abreast, g.images), out);
    }
  }

  // dw[K][K] from the padded input and the padded output gradient. Sums of a thousand rows each are added up in turn:
  // the rounding error does not grow with the batch.
  static void weight_gradient(const Geometry& geometry, const float* x, const float* g, float* dw) {
    const int64_t block = std::max<int64_t>(1, 1024 / geometry.height);
    for (int first = 0; first < K; first += ROWS) {
      V total[ROWS * K] = {};
      for (int64_t q = 0; q < geometry.columns(); q += block)
        weight_gradient_rows<K, ROWS>(geometry, x, g, first, q, std::min(q + block, geometry.columns()), total);
      for (int i = 0; i < std::min(ROWS, K - first); ++i)
        for (int dx = 0; dx < K; ++dx) dw[(first + i) * K + dx] = (float)horizontal(total[i * K + dx]);
    }
  }
};

// The kernels of one size, chosen once for a call.
struct DepthwiseKernels {
  void (*convolve)(const Geometry&, const float*, const float*, bool, float*, float*);
  void (*weight_gradient)(const Geometry&, const float*, const float*, float*);
};

static const DepthwiseKernels& depthwise_kernels(int64_t kernel) {
#define SIZE(K) {Depthwise<K>::convolve, Depthwise<K>::weight_gradient}
  static const DepthwiseKernels table[] = {SIZE(1), SIZE(3), SIZE(5), SIZE(7), SIZE(9), SIZE(11), SIZE(13), SIZE(15)};
#undef SIZE
  return table[kernel / 2];
}
