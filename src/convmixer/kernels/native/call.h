// What a plan is, and where the activations of a call lie while it runs.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "depthwise.h"
#include "product.h"
#include "team.h"

enum Kind : int64_t { PATCHES, DEPTHWISE, POINTWISE, MEANS, DENSE, LAYER_NORM };

// A layer as it is given. Mirrored field by field in plan.py; what a layer does not use is 0 or null.
struct LayerSpec {
  int64_t kind, in, out;
  int64_t kernel;      // side of a depthwise kernel, or of a patch
  int64_t activation;  // 0 none, 1 GELU, 2 ReLU
  int64_t source, target;  // which of the maps it reads and writes
  int64_t add;             // 1: adds to its result, depthwise: what it reads; pointwise: what the target holds
  double eps;              // of a layer normalisation
  const float *weight, *bias;   // bias may be null
  const float *scale, *shift;   // [out] behind the activation, or both null
};

struct Layer {
  LayerSpec spec;
  Packed packed;             // of PATCHES and POINTWISE
  std::vector<float> weight; // of DEPTHWISE [in][k][k], and of DENSE [out][in]
  Epilogue epilogue;
};

constexpr int MAPS = 3;                   // sets of maps: the network's, and two of a branch
constexpr int64_t CACHE = 1100 << 10;      // bytes of activations that a group may have, if it has more than one image
constexpr int64_t LARGEST_GROUP = 16;

struct Plan {
  int64_t channels, side;  // of the images, and of a patch
  std::vector<Layer> layers;
  int64_t widest[MAPS] = {};  // channels of the sets of maps
  int64_t deepest = 0;            // rows of the largest panel
  int64_t largest_kernel = 1;
  int64_t maps() const { return widest[0] + widest[1] + widest[2]; }  // channels of all sets
  int64_t longest = 0;            // entries of the longest vector per image, behind MEANS
  int64_t out = 0;                // of the last layer
};

static int64_t rounded(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

// Floats at the beginning of a line of the cache, zero at first, kept between calls.
class Buffer {
  float* floats_ = nullptr;
  int64_t size_ = 0;

 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(floats_); }
  float* of(int64_t size) {
    if (size > size_) {
      std::free(floats_);
      size_ = 0;
      floats_ = (float*)std::aligned_alloc(64, rounded(size * (int64_t)sizeof(float), 64));
      if (!floats_) throw std::bad_alloc();
      std::fill(floats_, floats_ + size, 0.0f);
      size_ = size;
    }
    return floats_;
  }
};

// The activations of a group: maps [channels][stride], and behind the pooling vectors [images][longest].
struct Activations {
  Buffer maps_memory, vectors_memory;
  float *maps[MAPS], *vectors[2];
};

// What one thread needs beside them.
struct Desk {
  Buffer panel_memory, plane_memory, columns_memory, compact_memory;
  float *panel, *columns, *compact;
  Padded padded;                       // for Geometry's layout
  std::array<int64_t, 4> laid_out{};   // kernel, rows, columns and planes of what it holds in depthwise_rows' layout
};

// One call.
struct Call {
  const Plan& plan;
  const void* images;  // [n][channels][height][width]
  bool bytes;          // uint8; otherwise float32
  int64_t n, height, width;
  float* out;             // [n][plan.out]
  int64_t rows, columns;  // of a map
  int64_t group;          // images in one
  int64_t stride;         // floats from one channel of a group's maps to the next
  bool shared;            // all threads work on one group
  int threads;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  Barrier barrier;
  Activations* common = nullptr;

  Call(const Plan& p, const void* x, bool is_bytes, int64_t count, int64_t h, int64_t w, float* to, int most)
      : plan(p), images(x), bytes(is_bytes), n(count), height(h), width(w), out(to) {
    rows = h / p.side, columns = w / p.side;
    const int64_t image = p.maps() * positions(1) * (int64_t)sizeof(float);
    group = std::max<int64_t>(1, std::min({CACHE / image, (n + most - 1) / most, LARGEST_GROUP}));
    shared = n < most;
    if (shared) group = n;
    // Below some thousand values a layer takes less time than waiting for one another.
    const int64_t useful = shared ? p.widest[0] * positions(n) / 4096 + 1 : (n + group - 1) / group;
    threads = (int)std::min<int64_t>(most, useful);
    // No multiple of a page: all channels of a position would share a few lines of the cache.
    stride = rounded(positions(group), PANEL) + LANES;
  }

  int64_t positions(int64_t count) const { return count * rows * columns; }

  void lay_out(Activations& a) const {
    a.maps[0] = a.maps_memory.of(plan.maps() * stride + PANEL);
    for (int i = 1; i < MAPS; ++i) a.maps[i] = a.maps[i - 1] + plan.widest[i - 1] * stride;
    a.vectors[0] = a.vectors_memory.of(2 * group * plan.longest + LANES);
    a.vectors[1] = a.vectors[0] + group * plan.longest;
  }

  // Sizes as in convmixer.cpp: at most 16 images abreast, never wider than one image to a row would be.
  void lay_out(Desk& d) const {
    const int64_t abreast = std::min<int64_t>(16, group), radius = plan.largest_kernel / 2;
    const int64_t image = rows * (rounded(columns, LANES) + radius), rest = radius + 2 * LANES;
    const int64_t planes = std::max<int64_t>(4, group);  // of depthwise_rows, where they are images or channels
    d.panel = d.panel_memory.of(plan.deepest * PANEL);
    const float* before = d.padded.plane;
    d.padded = {d.plane_memory.of((planes + abreast) * image + rest)};
    if (d.padded.plane != before) d.laid_out = {};
    d.columns = d.columns_memory.of(4 * abreast * image + rest);
    d.compact = d.compact_memory.of(positions(planes) + 8 * LANES);
  }
};

// Images of a group and the share of them that a thread computes: rows of maps where these are whole vectors and
// panels, so that most of what a thread reads is what it wrote; channels and panels otherwise.
struct Share {
  int64_t first, count;
  int part, parts;
  int64_t rows, unit;  // of all maps of a channel; of these, how many are a whole number of panels, or 0

  Share(const Call& c, int64_t first_image, int64_t images, int own, int all)
      : first(first_image), count(images), part(own), parts(all), rows(images * c.rows) {
    unit = 1;
    while (unit * c.columns % PANEL) ++unit;
    if (c.columns % LANES || (parts > 1 && rows / unit < parts)) unit = 0;
  }
  int64_t begin(int64_t items) const { return items * part / parts; }
  int64_t end(int64_t items) const { return items * (part + 1) / parts; }
  int64_t first_row() const { return part == 0 ? 0 : begin(rows / unit) * unit; }
  int64_t last_row() const { return part + 1 == parts ? rows : end(rows / unit) * unit; }
};

// FUNCTION<Activation of the layer>(…)
#define WITH_ACTIVATION(FUNCTION, ...)                                      \
  (l.spec.activation == 1   ? FUNCTION<Gelu<float>>(__VA_ARGS__)            \
   : l.spec.activation == 2 ? FUNCTION<Relu<float>>(__VA_ARGS__)            \
                            : FUNCTION<Identity>(__VA_ARGS__))
