// The parts of a ConvMixer block that are local to one channel, fused: what lies between two 1×1 convolutions.
//
// Tensors are channel-major, [C][N·H·W], in float32 or bfloat16; parameters and statistics are float32. A channel is
// computed by one thread in one fixed order: results do not depend on the number of threads. Each pass over
// a channel reads and writes float32 planes that stay in the cache; only pre-activations are kept for the backward
// pass, which computes the activations again.
#include <array>
#include <atomic>
#include <cmath>
#include <cstdlib>

#include "depthwise.h"

// Parameters [C] of an activation and the normalisation behind it. Mirrored in native.py.
struct ActNorm {
  const float *bias, *gamma, *beta;  // bias is in front of the activation
  double eps;
};

// One call. Mirrored field by field in native.py; pointers that an operation does not use are null.
struct Job {
  int64_t channels, images, height, width, kernel;
  int64_t operation, dtype, activation;  // indices of the tables at the end of this file
  int64_t batch_statistics;              // 1: of this batch, written to `statistics`; 0: read from there
  int64_t add_input;                     // act_norm_depthwise: 1 adds the convolution's input to the result
  int64_t turn;                          // depthwise: 1 turns the kernel by 180 degrees (input gradient)
  int64_t threads;
  ActNorm norms[2];                      // in front of the depthwise convolution, and behind it
  const void *input, *gradient, *residual;            // [C][M]
  const void* hidden_in;                              // [C][M] pre-activations of norms[1], for the backward pass
  void *output, *hidden_out;                          // [C][M]; hidden_out may be null
  const float* weight;                                // [C][k][k]
  const float* image_scale;                           // [N] or null: factors of the last norm, for stochastic depth
  float* statistics;                                  // [4][C]: mean and biased variance for norms[0], then norms[1]
  float* weight_gradient;                             // [C][k][k]
  float* gradients;                                   // [6][C]: bias, gamma, beta of norms[0], then of norms[1]
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel of the OpenMP runtime in use, or null

  int64_t size() const { return images * height * width; }
};

// Float planes of one thread, kept between calls: fresh memory would be faulted in page by page every time.
struct Scratch {
  float* memory = nullptr;
  size_t capacity = 0;
  ~Scratch() { std::free(memory); }
  bool reserve(size_t floats) {
    if (floats <= capacity) return true;
    std::free(memory);
    memory = (float*)std::aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64);
    capacity = memory ? floats : 0;
    return memory != nullptr;
  }
};

struct Planes {
  float *a, *b;
  Padded padded_x, padded_g;
  float* columns;
};

// The elements begin … end - 1, a vector at a time: f(offset, number of valid lanes).
template <class F>
INLINE void for_each_vector(int64_t begin, int64_t end, F f) {
  for (; begin + LANES <= end; begin += LANES) f(begin, LANES);
  if (begin < end) f(begin, (int)(end - begin));
}

// S sums over `size` elements: f(offset, valid lanes, parts) adds to parts. Lanes in float, blocks of them in double.
template <int S, class F>
INLINE std::array<double, S> sums(int64_t size, F f) {
  const int64_t block = 4096;
  std::array<double, S> total = {};
  for (int64_t begin = 0; begin < size; begin += block) {
    V part[S] = {};
    for_each_vector(begin, std::min(begin + block, size),
                    [&](int64_t i, int n) __attribute__((always_inline)) { f(i, n, part); });
    for (int s = 0; s < S; ++s) total[s] += horizontal(part[s]);
  }
  return total;
}

// y = a·scale + shift is batch normalisation (arXiv 1502.03167).
struct Norm {
  float mean, reciprocal, scale, shift;
};

// The normalisation norms[which] for a channel whose activations are in the plane a and sum up to `sum`.
static Norm normalisation(const Job& job, int which, int64_t c, const float* a, int64_t size, double sum) {
  float* mean = job.statistics + 2 * which * job.channels + c;
  float* variance = mean + job.channels;
  if (job.batch_statistics) {
    const float m = (float)(sum / size);
    auto squares = sums<1>(size, [&](int64_t i, int n, V* part) {
      V d = mask_tail(load(a + i) - m, n);
      part[0] += d * d;
    });
    *mean = m;
    *variance = (float)(squares[0] / size);
  }
  Norm norm;
  norm.mean = *mean;
  norm.reciprocal = (float)(1.0 / std::sqrt((double)*variance + job.norms[which].eps));
  norm.scale = job.norms[which].gamma[c] * norm.reciprocal;
  norm.shift = job.norms[which].beta[c] - norm.scale * norm.mean;
  return norm;
}

static Norm saved_normalisation(const Job& job, int which, int64_t c) {
  Job saved = job;
  saved.batch_statistics = 0;
  return normalisation(saved, which, c, nullptr, 0, 0);
}

// a = activation(u + bias); returns the sum of a.
template <class A, class T>
static double activate(const T* u, float bias, float* a, int64_t size) {
  return sums<1>(size, [&](int64_t i, int n, V* part) {
    V value = A::value(load(u + i, n) + bias);
    store(a + i, value);
    part[0] += mask_tail(value, n);
  })[0];
}

// Gradient through normalisation and activation, in two passes: `moments(i, n, d, a)` gives a vector of d, the gradient
// of the result, and of a, the activations, in the first pass; `d` and `a` are read in the second. `u` + bias are the
// pre-activations, out becomes their gradient; the gradients of the parameters on the way.
// With batch statistics da = γ/σ (d - mean(d) - (a - μ)/σ² · mean(d (a - μ))), arXiv 1502.03167, section 3.
template <class A, class F, class D, class T, class O>
static void act_norm_gradient(const Job& job, int which, int64_t c, F moments, const D* d, const float* a, const T* u,
                              float bias, O* out, int64_t size) {
  const Norm norm = saved_normalisation(job, which, c);
  auto sum = sums<2>(size, [&](int64_t i, int n, V* part) {
    V di, ai;
    moments(i, n, di, ai);
    part[0] += di;
    part[1] += di * mask_tail(ai - norm.mean, n);
  });
  const double factor = job.batch_statistics ? -norm.scale / (double)size : 0.0;
  const float centre = (float)(factor * sum[0]);
  const float slope = (float)(factor * sum[1] * norm.reciprocal * norm.reciprocal);
  auto bias_gradient = sums<1>(size, [&](int64_t i, int n, V* part) {
    V da = load(d + i, n) * norm.scale + ((load(a + i) - norm.mean) * slope + centre);
    V du = mask_tail(da * A::slope(load(u + i, n) + bias), n);
    store(out + i, du, n);
    part[0] += du;
  });
  float* gradients = job.gradients + 3 * which * job.channels + c;
  gradients[0] = (float)bias_gradient[0];
  gradients[job.channels] = (float)(sum[1] * norm.reciprocal);
  gradients[2 * job.channels] = (float)sum[0];
}

// The same where the activations are still to be computed: into the plane a.
template <class A, class D, class T, class O>
static void recomputed_act_norm_gradient(const Job& job, int which, int64_t c, const D* d, float* a, const T* u,
                                         float bias, O* out, int64_t size) {
  auto moments = [&](int64_t i, int n, V& di, V& ai) {
    di = load(d + i, n);
    ai = A::value(load(u + i, n) + bias);
    store(a + i, ai);
  };
  act_norm_gradient<A>(job, which, c, moments, d, a, u, bias, out, size);
}

// f(begin, end, factor) for the elements of the images first … last - 1, counted from the first one: image by image
// where the images have factors of their own, at once otherwise.
template <class F>
INLINE void for_each_image(const Job& job, int64_t first, int64_t last, F f) {
  const int64_t pixels = job.height * job.width;
  if (!job.image_scale) return f(0, (last - first) * pixels, 1.0f);
  for (int64_t n = first; n < last; ++n) f((n - first) * pixels, (n - first + 1) * pixels, job.image_scale[n]);
}

// The gradient d of a channel times the images' factors, as floats.
template <class T>
static void scale_images(const Job& job, const T* d, float* out) {
  for_each_image(job, 0, job.images, [&](int64_t begin, int64_t end, float factor) {
    for_each_vector(begin, end, [&](int64_t i, int n) { store(out + i, load(d + i, n) * factor, n); });
  });
}

// y = a · scale + shift, times the scale of the image, plus the residual.
template <class T, class A>
static void act_norm_forward(const Job& job, int64_t c, Planes& s) {
  const int64_t size = job.size();
  const T* u = (const T*)job.input + c * size;
  const T* residual = job.residual ? (const T*)job.residual + c * size : nullptr;
  T* out = (T*)job.output + c * size;
  double sum = activate<A>(u, job.norms[0].bias[c], s.a, size);
  const Norm norm = normalisation(job, 0, c, s.a, size, sum);
  for_each_image(job, 0, job.images, [&](int64_t begin, int64_t end, float factor) {
    const V scale = splat(norm.scale * factor), shift = splat(norm.shift * factor);
    for_each_vector(begin, end, [&](int64_t i, int n) {
      V y = load(s.a + i) * scale + shift;
      store(out + i, residual ? y + load(residual + i, n) : y, n);
    });
  });
}

template <class T, class A>
static void act_norm_backward(const Job& job, int64_t c, Planes& s) {
  const int64_t size = job.size();
  const T* u = (const T*)job.input + c * size;
  const T* d = (const T*)job.gradient + c * size;
  T* out = (T*)job.output + c * size;
  if (!job.image_scale) return recomputed_act_norm_gradient<A>(job, 0, c, d, s.a, u, job.norms[0].bias[c], out, size);
  scale_images(job, d, s.b);
  recomputed_act_norm_gradient<A>(job, 0, c, (const float*)s.b, s.a, u, job.norms[0].bias[c], out, size);
}

// x = act_norm of the input by norms[0]; v = depthwise(x) + bias; result = act_norm of v by norms[1], times the factor
// of the image, plus x where wanted. v is kept for the backward pass. With running statistics the channel is done in
// blocks of images that fit the innermost cache.
template <class T, class A>
static void act_norm_depthwise_forward(const Job& job, int64_t c, Planes& s) {
  const int64_t pixels = job.height * job.width;
  const int64_t block = job.batch_statistics ? job.images : std::max<int64_t>(4, 2048 / pixels);
  const DepthwiseKernels& depthwise = depthwise_kernels(job.kernel);
  const float bias = job.norms[1].bias[c];
  for (int64_t first = 0; first < job.images; first += block) {
    const Geometry g(std::min(block, job.images - first), job.height, job.width, (int)job.kernel);
    const int64_t size = g.images * pixels, offset = c * job.size() + first * pixels;
    T* out = (T*)job.output + offset;
    T* hidden = job.hidden_out ? (T*)job.hidden_out + offset : nullptr;
    double sum = activate<A>((const T*)job.input + offset, job.norms[0].bias[c], s.a, size);
    const Norm before = normalisation(job, 0, c, s.a, size, sum);
    pack(g, s.a, before.scale, before.shift, s.padded_x);
    depthwise.convolve(g, s.padded_x.plane, job.weight + c * job.kernel * job.kernel, false, s.columns, s.b);
    sum = sums<1>(size, [&](int64_t i, int n, V* part) {
      V v = load(s.b + i) + bias;
      if (hidden) store(hidden + i, v, n);
      V value = A::value(v);
      store(s.b + i, value);
      part[0] += mask_tail(value, n);
    })[0];
    const Norm behind = normalisation(job, 1, c, s.b, size, sum);
    const float residual_scale = job.add_input ? before.scale : 0.0f;
    const float residual_shift = job.add_input ? before.shift : 0.0f;
    for_each_image(job, first, first + g.images, [&](int64_t begin, int64_t end, float factor) {
      const V scale = splat(behind.scale * factor), shift = splat(behind.shift * factor + residual_shift);
      for_each_vector(begin, end, [&](int64_t i, int n) {
        V y = load(s.b + i) * scale + shift;
        store(out + i, job.add_input ? load(s.a + i) * residual_scale + y : y, n);
      });
    });
  }
}

template <class T, class A>
static void act_norm_depthwise_backward(const Job& job, int64_t c, Planes& s) {
  const Geometry g(job.images, job.height, job.width, (int)job.kernel);
  const int64_t size = job.size(), taps = job.kernel * job.kernel;
  const T* u = (const T*)job.input + c * size;
  const T* v = (const T*)job.hidden_in + c * size;
  const T* d = (const T*)job.gradient + c * size;
  const DepthwiseKernels& depthwise = depthwise_kernels(job.kernel);
  if (job.image_scale) {
    scale_images(job, d, s.b);
    recomputed_act_norm_gradient<A>(job, 1, c, (const float*)s.b, s.a, v, 0.0f, s.b, size);
  } else {
    recomputed_act_norm_gradient<A>(job, 1, c, d, s.a, v, 0.0f, s.b, size);
  }
  pack(g, s.b, 1.0f, 0.0f, s.padded_g);
  const float bias = job.norms[0].bias[c];
  activate<A>(u, bias, s.a, size);
  const Norm norm = saved_normalisation(job, 0, c);
  pack(g, s.a, norm.scale, norm.shift, s.padded_x);
  depthwise.weight_gradient(g, s.padded_x.plane, s.padded_g.plane, job.weight_gradient + c * taps);
  depthwise.convolve(g, s.padded_g.plane, job.weight + c * taps, true, s.columns, s.b);
  auto moments = [&](int64_t i, int n, V& di, V& ai) {
    di = mask_tail(load(s.b + i), n);
    if (job.add_input) di += load(d + i, n);
    store(s.b + i, di);
    ai = load(s.a + i);
  };
  act_norm_gradient<A>(job, 0, c, moments, (const float*)s.b, s.a, u, bias, (T*)job.output + c * size, size);
}

// Depthwise convolution alone: with bias (or none), and turned for the input gradient.
template <class T, class A>
static void depthwise_forward(const Job& job, int64_t c, Planes& s) {
  const Geometry g(job.images, job.height, job.width, (int)job.kernel);
  const int64_t size = job.size();
  const T* x = (const T*)job.input + c * size;
  for_each_vector(0, size, [&](int64_t i, int n) { store(s.a + i, load(x + i, n)); });
  pack(g, s.a, 1.0f, 0.0f, s.padded_x);
  depthwise_kernels(job.kernel).convolve(g, s.padded_x.plane, job.weight + c * job.kernel * job.kernel, job.turn != 0,
                                         s.columns, s.b);
  const float bias = job.norms[1].bias ? job.norms[1].bias[c] : 0.0f;
  T* out = (T*)job.output + c * size;
  for_each_vector(0, size, [&](int64_t i, int n) { store(out + i, load(s.b + i) + bias, n); });
}

template <class T, class A>
static void depthwise_weight_gradient(const Job& job, int64_t c, Planes& s) {
  const Geometry g(job.images, job.height, job.width, (int)job.kernel);
  const int64_t size = job.size();
  for (int side = 0; side < 2; ++side) {
    const T* from = (const T*)(side ? job.gradient : job.input) + c * size;
    for_each_vector(0, size, [&](int64_t i, int n) { store(s.a + i, load(from + i, n)); });
    pack(g, s.a, 1.0f, 0.0f, side ? s.padded_g : s.padded_x);
  }
  depthwise_kernels(job.kernel)
      .weight_gradient(g, s.padded_x.plane, s.padded_g.plane, job.weight_gradient + c * job.kernel * job.kernel);
}

using Program = void (*)(const Job&, int64_t, Planes&);

#define VARIANTS(F) {{F<float, Gelu<float>>, F<float, Relu<float>>}, {F<bf16, Gelu<bf16>>, F<bf16, Relu<bf16>>}}
static const Program PROGRAMS[][2][2] = {  // [operation][dtype][activation]
    VARIANTS(act_norm_forward),
    VARIANTS(act_norm_backward),
    VARIANTS(act_norm_depthwise_forward),
    VARIANTS(act_norm_depthwise_backward),
    VARIANTS(depthwise_forward),
    VARIANTS(depthwise_weight_gradient)};
#undef VARIANTS

struct Work {
  const Job* job;
  Program program;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
};

// What every thread does: take the next channel until none is left.
static void work(void* data) {
  static thread_local Scratch scratch;
  Work& w = *(Work*)data;
  const Job& job = *w.job;
  auto rounded = [](int64_t floats) { return (size_t)(floats + 31) / 16 * 16; };
  // Bounds for every geometry that a block of these images can have: at most 16 images abreast, the last group perhaps
  // not full, and never wider than one image to a row would be.
  const int64_t abreast = std::min<int64_t>(16, job.images), radius = job.kernel / 2;
  const int64_t image = job.height * ((job.width + LANES - 1) / LANES * LANES + radius);
  const size_t plane = rounded(job.size() + LANES);
  const size_t padded = rounded((job.images + abreast) * image + radius + LANES);
  const size_t columns = rounded(4 * abreast * image + radius + LANES);
  if (!scratch.reserve(2 * plane + 2 * padded + columns)) {
    w.failed = true;
    return;
  }
  float* p = scratch.memory;
  Planes planes = {p, p + plane, {p + 2 * plane}, {p + 2 * plane + padded}, p + 2 * plane + 2 * padded};
  for (int64_t c; (c = w.next.fetch_add(1)) < job.channels;) w.program(job, c, planes);
}

// 0, or 1 if there was not enough memory.
extern "C" int convmixer_run(const Job* job) {
  Work w{job, PROGRAMS[job->operation][job->dtype][job->activation]};
  const int64_t threads = std::min(job->threads, job->channels);
  if (job->parallel && threads > 1)
    job->parallel(work, &w, (unsigned)threads, 0);
  else
    work(&w);
  return w.failed;
}

extern "C" int64_t convmixer_job_size() { return sizeof(Job); }
