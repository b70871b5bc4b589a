// A whole network in one call: images in, logits out.
//
// A plan holds a network's weights in the form in which they are multiplied. It is run image group by image group: the
// activations of a group, [channels][positions] in float32, stay in a core's cache from the first layer to the last.
// With as many groups as threads each thread takes groups of its own; with fewer, all threads share the channels and
// positions of each layer. Both ways every value is computed by the same operations in the same order.
#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "call.h"

// Pixels [channels][side][side] of PANEL patches from position `at` of a group on, as a panel.
template <class Pixel>
static void take_patches(const Call& c, const Share& s, int64_t at, float* panel) {
  const int64_t side = c.plan.side, map = c.rows * c.columns, plane = c.height * c.width;
  const Pixel* images = (const Pixel*)c.images + s.first * c.plan.channels * plane;
  for (int64_t i = 0; i < PANEL; ++i) {
    const int64_t position = std::min(at + i, c.positions(s.count) - 1), place = position % map;
    const Pixel* from = images + position / map * c.plan.channels * plane + place / c.columns * side * c.width +
                        place % c.columns * side;
    float* to = panel + i;
    for (int64_t channel = 0; channel < c.plan.channels; ++channel, from += plane)
      for (int64_t y = 0; y < side; ++y)
        for (int64_t x = 0; x < side; ++x, to += PANEL) *to = (float)from[y * c.width + x];
  }
}

template <class Activation>
static void product(const Call& c, const Layer& l, const Share& s, Activations& a, Desk& d) {
  const int64_t panels = (c.positions(s.count) + PANEL - 1) / PANEL;
  const int64_t begin = s.unit ? s.first_row() * c.columns / PANEL : s.begin(panels);
  const int64_t end = s.unit ? (s.last_row() * c.columns + PANEL - 1) / PANEL : s.end(panels);
  for (int64_t q = begin; q < end; ++q) {
    if (l.spec.kind == POINTWISE)
      take_panel(a.maps[l.spec.source] + q * PANEL, c.stride, l.spec.in, d.panel);
    else if (c.bytes)
      take_patches<uint8_t>(c, s, q * PANEL, d.panel);
    else
      take_patches<float>(c, s, q * PANEL, d.panel);
    multiply_panel<Activation>(l.packed, d.panel, l.epilogue, l.spec.add, a.maps[l.spec.target] + q * PANEL, c.stride);
  }
}

// to[i] = epilogue of sums[i], plus x[i] if the layer adds, for channel m. Memory is there up to whole blocks of vectors.
template <class Activation>
static void finish(const Layer& l, int64_t m, int64_t size, const float* sums, const float* x, float* to) {
  constexpr int N = ABREAST;
  for (int64_t i = 0; i < size; i += N * LANES) {
    V v[N];
    for (int n = 0; n < N; ++n) v[n] = load(sums + i + n * LANES);
    l.epilogue.apply<Activation>(v, m);
    const int whole = (int)std::min<int64_t>(N, (size - i + LANES - 1) / LANES);
    for (int n = 0; n < whole; ++n) {
      const int64_t place = i + n * LANES;
      store(to + place, l.spec.add ? v[n] + load(x + place) : v[n]);
    }
  }
}

// Any size: the channels of a share, all rows of them.
static void depthwise_channels(const Call& c, const Layer& l, const Share& s, Activations& a, Desk& d) {
  const int64_t k = l.spec.kernel, size = c.positions(s.count);
  const Geometry geometry(s.count, c.rows, c.columns, (int)k);
  const DepthwiseKernels& kernels = depthwise_kernels(k);
  d.padded.images = 0, d.laid_out = {};  // the plane may be laid out for something else
  for (int64_t m = s.begin(l.spec.in); m < s.end(l.spec.in); ++m) {
    const float* from = a.maps[l.spec.source] + m * c.stride;
    float* to = a.maps[l.spec.target] + m * c.stride;
    pack(geometry, from, 1.0f, 0.0f, d.padded);
    kernels.convolve(geometry, d.padded.plane, l.weight.data() + m * k * k, false, d.columns, d.compact);
    WITH_ACTIVATION(finish, l, m, size, d.compact, from, to);
  }
}

// The rows of a share where rows are whole vectors: from map to map without a step in between. Vectors are convolved
// several at once: those of a row, or where a row is one vector, those of several whole images or of several channels.
template <int K>
static void depthwise_rows(const Call& c, const Layer& l, const Share& s, Activations& a, Desk& d) {
  constexpr int r = K / 2, B = columns_at_once(K);
  const int64_t width = c.columns, height = c.rows, padded = width + r, plane = height * padded + r;
  const int64_t first = s.first_row(), last = s.last_row(), planes = width == LANES ? B : 1;
  float* rows = d.padded.plane;
  const std::array<int64_t, 4> layout = {K, height, width, planes};
  if (d.laid_out != layout) std::fill(rows, rows + planes * plane, 0.0f);  // the padding then stays as it is
  d.laid_out = layout;
  const std::integral_constant<int, B> several{};
  const std::integral_constant<int, 1> one{};
  float ordered[B][K * K];
  const float* taps[B];
  for (int b = 0; b < B; ++b) taps[b] = ordered[b];
  for (int64_t m = 0, channels; m < l.spec.in; m += channels) {
    channels = std::min(planes, l.spec.in - m);
    for (int64_t i = 0; i < channels; ++i) order_taps<K>(l.weight.data() + (m + i) * K * K, false, ordered[i]);
    for (int64_t image = first / height, next; image * height < last; image = next) {
      const int64_t begin = std::max<int64_t>(0, first - image * height), end = std::min(height, last - image * height);
      const int64_t above = std::min<int64_t>(r, begin), below = std::min<int64_t>(r, height - end);
      const int64_t size = (end - begin) * width, place = m * c.stride + (image * height + begin) * width;
      const float* from = a.maps[l.spec.source] + place;
      float* to = a.maps[l.spec.target] + place;
      auto lay_out = [&](int64_t number, const float* map) {
        float* row = rows + number * plane + r;
        for (int64_t y = -above; y < end - begin + below; ++y, row += padded)
          for (int64_t x = 0; x < width; x += LANES) store(row + x, load(map + y * width + x));
      };
      // `count` vectors of planes, each `apart` from the one before, to `result`, `step` from one another.
      auto convolve = [&](auto count, auto same, const float* const* weights, int64_t at, int64_t apart, float* result,
                          int64_t step) {
        constexpr int N = decltype(count)::value;
        const float* source[N];
        for (int b = 0; b < N; ++b) source[b] = rows + above * padded + at + b * apart;
        convolve_columns<K, N, decltype(same)::value>(
            source, padded, end - begin, above, below, weights,
            [&](int b, int64_t y, V v) INLINE_LAMBDA { store(result + y * width + b * step, v); });
      };
      if (planes > 1 && begin == 0 && (image + B) * height <= last) {  // several images of a channel
        next = image + B;
        for (int64_t i = 0; i < channels; ++i, from += c.stride, to += c.stride) {
          for (int64_t b = 0; b < B; ++b) lay_out(b, from + b * size);
          convolve(several, std::true_type(), taps + i, 0, plane, d.compact, size);
          WITH_ACTIVATION(finish, l, m + i, B * size, d.compact, from, to);
        }
        continue;
      }
      next = image + 1;
      for (int64_t i = 0; i < channels; ++i) lay_out(i, from + i * c.stride);
      if (planes > 1 && channels == planes) {
        convolve(several, std::false_type(), taps, 0, plane, d.compact, size);
      } else {
        for (int64_t i = 0; i < channels; ++i) {
          float* result = d.compact + i * size;
          int64_t x = 0;
          for (; x + B * LANES <= width; x += B * LANES)
            convolve(several, std::true_type(), taps + i, i * plane + x, LANES, result + x, LANES);
          for (; x < width; x += LANES) convolve(one, std::true_type(), taps + i, i * plane + x, LANES, result + x, LANES);
        }
      }
      for (int64_t i = 0; i < channels; ++i, from += c.stride, to += c.stride)
        WITH_ACTIVATION(finish, l, m + i, size, d.compact + i * size, from, to);
    }
  }
}

static void depthwise(const Call& c, const Layer& l, const Share& s, Activations& a, Desk& d) {
  using Rows = void (*)(const Call&, const Layer&, const Share&, Activations&, Desk&);
  static const Rows by_kernel[] = {depthwise_rows<1>, depthwise_rows<3>,  depthwise_rows<5>,  depthwise_rows<7>,
                                   depthwise_rows<9>, depthwise_rows<11>, depthwise_rows<13>, depthwise_rows<15>};
  (s.unit ? by_kernel[l.spec.kernel / 2] : depthwise_channels)(c, l, s, a, d);
}

static void means(const Call& c, const Layer& l, const Share& s, Activations& a) {
  const int64_t map = c.rows * c.columns;
  for (int64_t m = s.begin(l.spec.in); m < s.end(l.spec.in); ++m)
    for (int64_t image = 0; image < s.count; ++image) {
      const float* from = a.maps[l.spec.source] + m * c.stride + image * map;
      V sum = {};
      for (int64_t i = 0; i < map; i += LANES) sum += load(from + i, (int)std::min<int64_t>(LANES, map - i));
      a.vectors[0][image * l.spec.in + m] = (float)(horizontal(sum) / (double)map);
    }
}

template <class Activation>
static void dense(const Layer& l, int64_t count, const float* x, float* y) {
  const int64_t in = l.spec.in, out = l.spec.out;
  for (int64_t image = 0; image < count; ++image, x += in, y += out)
    for (int64_t m = 0; m < out; ++m) {
      V sum = {};
      for (int64_t k = 0; k < in; k += LANES) {
        const int some = (int)std::min<int64_t>(LANES, in - k);
        sum += load(l.weight.data() + m * in + k, some) * load(x + k, some);
      }
      V result[] = {splat((float)horizontal(sum))};
      l.epilogue.apply<Activation>(result, m);
      y[m] = result[0][0];
    }
}

static void layer_norm(const Layer& l, int64_t count, float* x) {
  const int64_t size = l.spec.in;
  for (int64_t image = 0; image < count; ++image, x += size) {
    double mean = 0, square = 0;
    for (int64_t i = 0; i < size; ++i) mean += x[i];
    mean /= (double)size;
    for (int64_t i = 0; i < size; ++i) square += (x[i] - mean) * (x[i] - mean);
    const double factor = 1 / std::sqrt(square / (double)size + l.spec.eps);
    for (int64_t i = 0; i < size; ++i)
      x[i] = (float)((x[i] - mean) * factor) * l.epilogue.scale[i] + l.epilogue.shift[i];
  }
}

// A thread's share of all layers of one group.
static void run_group(Call& c, const Share& s, Activations& a, Desk& d) {
  int current = 0;  // of the vectors
  for (const Layer& l : c.plan.layers) {
    switch (l.spec.kind) {
      case PATCHES:
      case POINTWISE:
        WITH_ACTIVATION(product, c, l, s, a, d);
        break;
      case DEPTHWISE:
        if (s.unit && s.parts > 1) c.barrier.wait(s.parts);  // rows of others are read
        depthwise(c, l, s, a, d);
        break;
      case MEANS:
        if (s.unit && s.parts > 1) c.barrier.wait(s.parts);
        means(c, l, s, a);
        break;
      case DENSE:
        if (s.part == 0) WITH_ACTIVATION(dense, l, s.count, a.vectors[current], a.vectors[1 - current]);
        current = 1 - current;
        break;
      case LAYER_NORM:
        if (s.part == 0) layer_norm(l, s.count, a.vectors[current]);
        break;
    }
    const bool own = s.unit && (l.spec.kind == PATCHES || l.spec.kind == POINTWISE);  // what follows reads no others'
    if (s.parts > 1 && l.spec.kind <= MEANS && !own) c.barrier.wait(s.parts);
  }
  if (s.part == 0)
    std::copy_n(a.vectors[current], s.count * c.plan.out, c.out + s.first * c.plan.out);
}

// What every thread does.
static void work(void* data, int number) {
  static thread_local Activations own;
  static thread_local Desk desk;
  Call& c = *(Call*)data;
  bool ready = true;
  try {
    c.lay_out(desk);
    if (!c.shared) c.lay_out(own);
    if (c.shared && number == 0) c.lay_out(*(c.common = &own));
  } catch (const std::bad_alloc&) {
    ready = false;
    c.failed = true;
  }
  if (c.shared) {
    if (c.threads > 1) c.barrier.wait(c.threads);
    if (!c.failed) run_group(c, Share(c, 0, c.n, number, c.threads), *c.common, desk);
    return;
  }
  const int64_t groups = (c.n + c.group - 1) / c.group;
  for (int64_t q; ready && (q = c.next.fetch_add(1)) < groups;)
    run_group(c, Share(c, q * c.group, std::min(c.group, c.n - q * c.group), 0, 1), own, desk);
}

static Layer prepared(const LayerSpec& spec) {
  Layer l{spec, {}, {}, {}};
  const int64_t k = spec.kernel;
  if (spec.kind == PATCHES || spec.kind == POINTWISE) l.packed = Packed(spec.weight, spec.out, spec.in);
  if (spec.kind == DEPTHWISE) l.weight.assign(spec.weight, spec.weight + spec.in * k * k);
  if (spec.kind == DENSE) l.weight.assign(spec.weight, spec.weight + spec.in * spec.out);
  auto filled = [&](const float* values, float otherwise) {
    std::vector<float> result(rounded(spec.out, SHORT), otherwise);  // whole blocks of a product's rows
    if (values) std::copy_n(values, spec.out, result.begin());
    return result;
  };
  l.epilogue = {filled(spec.bias, 0.0f), filled(spec.scale, 1.0f), filled(spec.shift, 0.0f)};
  return l;
}

// A plan for images of `channels` in patches of side² pixels; null if there is not enough memory. Weights are copied.
extern "C" void* convmixer_plan(const LayerSpec* layers, int64_t count, int64_t channels, int64_t side) {
  try {
    auto plan = std::make_unique<Plan>();
    plan->channels = channels, plan->side = side;
    for (const LayerSpec* l = layers; l < layers + count; ++l) {
      plan->layers.push_back(prepared(*l));
      if (l->kind < MEANS) plan->widest[l->target] = std::max(plan->widest[l->target], l->out);
      if (l->kind >= MEANS) plan->longest = std::max({plan->longest, l->in, l->out});
      if (l->kind == PATCHES || l->kind == POINTWISE) plan->deepest = std::max(plan->deepest, l->in);
      if (l->kind == DEPTHWISE) plan->largest_kernel = std::max(plan->largest_kernel, l->kernel);
    }
    plan->out = layers[count - 1].out;
    return plan.release();
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

extern "C" void convmixer_plan_free(void* plan) { delete (Plan*)plan; }

// Images [n][channels][height][width], uint8 or float32, to the last layer's output [n][out]. 1: not enough memory.
extern "C" int convmixer_plan_run(const void* plan, const void* images, int64_t bytes, int64_t n, int64_t height,
                                  int64_t width, float* out, int64_t threads) {
  Call call(*(const Plan*)plan, images, bytes != 0, n, height, width, out, Team::available((int)threads));
  Team::run(call.threads, work, &call);
  return call.failed;
}

extern "C" int64_t convmixer_layer_size() { return sizeof(LayerSpec); }
