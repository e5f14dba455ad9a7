// What a GPU spends its time on between the matrix products, each in one pass over memory. The definitions are candle's own
// operations (../attention/portable.rs, ../disentangled.rs, ../elementwise.rs, ../log_prob.rs), and the tests compare.
//
// Numbers are read and written sixteen bytes at a time, a pack, and computed in f32. Every tensor is contiguous, begins at
// a multiple of sixteen bytes, and its rows are whole packs; ../gpu.rs sees to that.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#define WARP 32
#define ALL 0xffffffffu
#define MINUS_INFINITY (-__int_as_float(0x7f800000))

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void narrow(float& to, float x) { to = x; }
__device__ __forceinline__ void narrow(__half& to, float x) { to = __float2half_rn(x); }
__device__ __forceinline__ void narrow(__nv_bfloat16& to, float x) { to = __float2bfloat16_rn(x); }

template <typename T>
struct alignas(16) Pack {
  static constexpr int SIZE = 16 / sizeof(T);
  T values[SIZE];
  __device__ __forceinline__ float get(int i) const { return widen(values[i]); }
  __device__ __forceinline__ void set(int i, float x) { narrow(values[i], x); }
};

template <typename T>
__device__ __forceinline__ Pack<T> load(const T* from, size_t pack) {
  return reinterpret_cast<const Pack<T>*>(from)[pack];
}

template <typename T>
__device__ __forceinline__ void store(T* to, size_t pack, const Pack<T>& values) {
  reinterpret_cast<Pack<T>*>(to)[pack] = values;
}

__device__ __forceinline__ float warp_max(float x) {
  for (int lane = WARP / 2; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, lane));
  return x;
}

__device__ __forceinline__ float warp_sum(float x) {
  for (int lane = WARP / 2; lane > 0; lane /= 2) x += __shfl_xor_sync(ALL, x, lane);
  return x;
}

// ---- what each number goes through by itself ----

enum Activation : uint32_t { NOTHING, GELU, GELU_NEW };

__device__ __forceinline__ float activated(float x, uint32_t activation) {
  switch (activation) {
    case GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case GELU_NEW: return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    default: return x;
  }
}

// x = activation(x + bias) + residual, in place; `bias` and `residual` may be null. `packs` in all, `width` of them a row.
template <typename T>
__device__ void finish(T* x, const T* bias, const T* residual, size_t packs, uint32_t width, uint32_t activation) {
  size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= packs) return;
  Pack<T> values = load(x, at), added, rest;
  if (bias) added = load(bias, at % width);
  if (residual) rest = load(residual, at);
#pragma unroll
  for (int i = 0; i < Pack<T>::SIZE; i++) {
    float value = values.get(i) + (bias ? added.get(i) : 0.0f);
    values.set(i, activated(value, activation) + (residual ? rest.get(i) : 0.0f));
  }
  store(x, at, values);
}

// out[row][i] = silu(x[row][i]) * x[row][width + i]; `width` packs in a row of `out`.
template <typename T>
__device__ void swiglu(const T* x, T* out, size_t packs, uint32_t width) {
  size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= packs) return;
  size_t row = at / width, column = at % width;
  Pack<T> gate = load(x, row * 2 * width + column), up = load(x, row * 2 * width + width + column);
#pragma unroll
  for (int i = 0; i < Pack<T>::SIZE; i++) {
    float value = gate.get(i);
    up.set(i, value / (1.0f + __expf(-value)) * up.get(i));
  }
  store(out, at, up);
}

// Turns the first `heads` heads of each token of x, [tokens, width], in place. `cosines` and `sines` are
// [positions, pairs].
template <typename T>
__device__ void rotate(T* x, const float* cosines, const float* sines, const uint32_t* positions, uint32_t tokens,
                       uint32_t width, uint32_t heads, uint32_t size, uint32_t pairs, uint32_t interleaved) {
  size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (size_t)tokens * heads * pairs) return;
  uint32_t pair = at % pairs, head = at / pairs % heads, token = at / pairs / heads;
  size_t angle = (size_t)positions[token] * pairs + pair;
  float cosine = cosines[angle], sine = sines[angle];
  T* from = x + (size_t)token * width + (size_t)head * size;
  T* first = from + (interleaved ? 2 * pair : pair);
  T* second = interleaved ? first + 1 : first + pairs;
  float a = widen(*first), b = widen(*second);
  narrow(*first, a * cosine - b * sine);
  narrow(*second, a * sine + b * cosine);
}

// ---- attention ----

// Takes the tokens of a rectangle out of x, [tokens, heads * size], head by head: out is [heads, places, size]. The first
// `scaled` heads are multiplied by `scale`. `size` in packs.
template <typename T>
__device__ void split(const T* x, const uint32_t* tokens, T* out, uint32_t places, uint32_t heads, uint32_t size,
                      uint32_t scaled, float scale) {
  size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (size_t)places * heads * size) return;
  uint32_t pack = at % size, head = at / size % heads, place = at / size / heads;
  Pack<T> values = load(x, ((size_t)tokens[place] * heads + head) * size + pack);
  if (head < scaled) {
#pragma unroll
    for (int i = 0; i < Pack<T>::SIZE; i++) values.set(i, values.get(i) * scale);
  }
  store(out, ((size_t)head * places + place) * size + pack, values);
}

// The way back: x is [heads, places, size], out [tokens, heads * size]. Places of `nowhere` pad. `more`, if not null, is
// added to x.
template <typename T>
__device__ void merge(const T* x, const T* more, const uint32_t* tokens, T* out, uint32_t places, uint32_t heads,
                      uint32_t size, uint32_t nowhere) {
  size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (size_t)places * heads * size) return;
  uint32_t pack = at % size, head = at / size % heads, place = at / size / heads;
  uint32_t token = tokens[place];
  if (token == nowhere) return;
  size_t from = ((size_t)head * places + place) * size + pack;
  Pack<T> values = load(x, from);
  if (more) {
    Pack<T> rest = load(more, from);
#pragma unroll
    for (int i = 0; i < Pack<T>::SIZE; i++) values.set(i, values.get(i) + rest.get(i));
  }
  store(out, ((size_t)token * heads + head) * size + pack, values);
}

enum Kind : uint32_t { PLAIN, ALIBI, TABLE };

struct Scores {
  uint32_t queries;  // in all: heads * rows * length
  uint32_t rows;
  uint32_t length;       // places of a row, whole packs
  uint32_t past;         // keys of the past
  uint32_t past_width;   // the same in whole packs
  uint32_t causal;
  uint32_t window;  // 0: none
  uint32_t kind;
  uint32_t reach;
};

// Softmax over the scores of the past and of the row, both at once. A warp has one query, and its scores in shared memory: the
// first of every pack, then the second, so that lanes stand side by side. `before` is [queries,
// past_width], `own` [queries, length], `out` the weights in the same order, the past's first; `lengths` are those of the
// rows; `bias` is a slope for each head, or a table of 2 reach + 1 for each.
template <typename T>
__device__ void weights(const T* before, const T* own, T* out, const uint32_t* lengths, const float* bias, Scores s) {
  extern __shared__ float4 shared[];
  constexpr int SIZE = Pack<T>::SIZE;
  uint32_t lane = threadIdx.x % WARP, warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
  uint32_t query = blockIdx.x * warps + warp;
  if (query >= s.queries) return;
  uint32_t place = query % s.length, row = query / s.length % s.rows, head = query / s.length / s.rows;
  uint32_t from_past = s.past_width / SIZE, packs = from_past + s.length / SIZE;
  float* scores = reinterpret_cast<float*>(shared) + (size_t)warp * (s.past_width + s.length);

  const int at = s.past + place;
  const int end = s.past + (s.causal ? min(place + 1, s.length) : lengths[row]);
  const int begin = s.window && at >= (int)s.window ? at - (int)s.window + 1 : 0;
  const T* mine = own + (size_t)query * s.length;
  const T* theirs = before + (size_t)query * s.past_width;
  const float slope = s.kind == ALIBI ? bias[head] : 0.0f;
  const float* table = s.kind == TABLE ? bias + (size_t)head * (2 * s.reach + 1) : nullptr;

  float greatest = MINUS_INFINITY;
  for (uint32_t pack = lane; pack < packs; pack += WARP) {
    bool is_past = pack < from_past;
    uint32_t first = is_past ? pack * SIZE : (pack - from_past) * SIZE;
    Pack<T> values = is_past ? load(theirs, pack) : load(mine, pack - from_past);
#pragma unroll
    for (int i = 0; i < SIZE; i++) {
      int key = first + i + (is_past ? 0 : s.past);
      bool seen = key >= begin && key < end && (!is_past || key < (int)s.past);
      int distance = key - at;
      float score = values.get(i) - slope * abs(distance);
      if (table) score += table[min(max(distance, -(int)s.reach), (int)s.reach) + s.reach];
      score = seen ? score : MINUS_INFINITY;
      scores[i * packs + pack] = score;
      greatest = fmaxf(greatest, score);
    }
  }
  greatest = warp_max(greatest);
  float sum = 0.0f;
  for (uint32_t pack = lane; pack < packs; pack += WARP) {
#pragma unroll
    for (int i = 0; i < SIZE; i++) {
      float weight = __expf(scores[i * packs + pack] - greatest);
      scores[i * packs + pack] = weight;
      sum += weight;
    }
  }
  float share = 1.0f / warp_sum(sum);
  T* to_past = out + (size_t)query * s.past_width;
  T* to_own = out + (size_t)s.queries * s.past_width + (size_t)query * s.length;
  for (uint32_t pack = lane; pack < packs; pack += WARP) {
    Pack<T> values;
#pragma unroll
    for (int i = 0; i < SIZE; i++) values.set(i, scores[i * packs + pack] * share);
    if (pack < from_past) store(to_past, pack, values);
    else store(to_own, pack - from_past, values);
  }
}

// Queries of a tile at most, and warps of a block.
#define MOST 8
#define WARPS 8

struct Places {
  uint32_t rows;
  uint32_t length;   // places of a row, whole packs
  uint32_t count;    // relative places, the width of what is said of them
  uint32_t tile;     // queries a block has at once
  uint32_t own;      // where in `places` the distance 0 is
};

// Softmax over disentangled scores: scores[i][j] + by_queries[i][place(j - i)] + by_keys[j][place(j - i)]. A block has `tile`
// queries, at most MOST, of one head of one row. `scores` is [heads, rows, length, length]; `by_queries` and `by_keys`, which may be null,
// are [heads, rows, length, count]. The weights take the place of the scores.
template <typename T>
__device__ void disentangled(T* scores, const T* by_queries, const T* by_keys, const uint32_t* lengths,
                             const uint32_t* places, Places s) {
  extern __shared__ float4 shared[];
  float* tile = reinterpret_cast<float*>(shared);
  uint32_t lane = threadIdx.x % WARP, warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
  uint32_t tiles = (s.length + s.tile - 1) / s.tile;
  size_t row = blockIdx.x / tiles;  // of one head: head * rows + row
  uint32_t first = blockIdx.x % tiles * s.tile, queries = min(s.tile, s.length - first);
  uint32_t length = lengths[row % s.rows];
  T* mine = scores + (row * s.length + first) * s.length;
  const T* said = by_queries ? by_queries + (row * s.length + first) * s.count : nullptr;
  const T* keys = by_keys ? by_keys + row * s.length * s.count : nullptr;

  // Places never fall from one query to the next and rise by one at most: the queries of a tile ask a key for a few that lie
  // side by side, which each lane takes into a row of its own.
  constexpr int SIZE = Pack<T>::SIZE, NEARBY = ((MOST + SIZE - 2) / SIZE + 1) * SIZE;
  __shared__ T nearby[WARPS][WARP][NEARBY + 1];
  T* near_key = nearby[warp][lane];
  for (uint32_t key = warp * WARP + lane; key < s.length; key += warps * WARP) {
    if (key >= length) {
      for (uint32_t query = 0; query < queries; query++) tile[query * s.length + key] = MINUS_INFINITY;
      continue;
    }
    // A query that pads stands where the last one does: the places are for rows without padding.
    auto place_of = [&](uint32_t query) { return places[s.own + key - min(first + query, length - 1)]; };
    uint32_t begin = place_of(0) / SIZE * SIZE;
    if (keys) {
#pragma unroll
      for (int i = 0; i < NEARBY; i += SIZE) {
        if (begin + i >= s.count) break;
        Pack<T> values = load(keys + (size_t)key * s.count + begin, i / SIZE);
#pragma unroll
        for (int j = 0; j < SIZE; j++) near_key[i + j] = values.values[j];
      }
    }
    for (uint32_t query = 0; query < queries; query++) {
      uint32_t place = place_of(query);
      float score = widen(mine[query * s.length + key]);
      if (said) score += widen(said[(size_t)query * s.count + place]);
      if (keys) score += widen(near_key[place - begin]);
      tile[query * s.length + key] = score;
    }
  }
  __syncthreads();
  for (uint32_t query = warp; query < queries; query += warps) {
    float* own = tile + query * s.length;
    float greatest = MINUS_INFINITY, sum = 0.0f;
    for (uint32_t key = lane; key < s.length; key += WARP) greatest = fmaxf(greatest, own[key]);
    greatest = warp_max(greatest);
    for (uint32_t key = lane; key < s.length; key += WARP) {
      float weight = __expf(own[key] - greatest);
      own[key] = weight;
      sum += weight;
    }
    float share = 1.0f / warp_sum(sum);
    __syncwarp();
    for (uint32_t pack = lane; pack < s.length / Pack<T>::SIZE; pack += WARP) {
      Pack<T> values;
#pragma unroll
      for (int i = 0; i < Pack<T>::SIZE; i++) values.set(i, own[pack * Pack<T>::SIZE + i] * share);
      store(mine + query * s.length, pack, values);
    }
  }
}

// ---- log-probabilities ----

// log softmax(penalised logits) at `wanted`, a block for each row. The logits of `ids`, [rows, most] of which the first
// `counts` stand, are divided by `factors`, or multiplied when negative; no id stands twice.
template <typename T>
__device__ void log_probabilities(const T* logits, const uint32_t* ids, const float* factors, const uint32_t* counts,
                                  const uint32_t* wanted, float* out, uint32_t vocabulary, uint32_t most) {
  extern __shared__ float4 shared[];
  uint32_t* penalised = reinterpret_cast<uint32_t*>(shared);
  __shared__ float maxima[WARP], sums[WARP], answer;
  size_t row = blockIdx.x;
  const T* own = logits + row * vocabulary;
  const uint32_t count = most ? counts[row] : 0, target = wanted[row];

  for (uint32_t word = threadIdx.x; word < (vocabulary + 31) / 32; word += blockDim.x) penalised[word] = 0;
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
    uint32_t id = ids[row * most + i];
    atomicOr(&penalised[id / 32], 1u << (id % 32));
  }
  __syncthreads();

  float greatest = MINUS_INFINITY, sum = 0.0f;
  auto add = [&](float x) {
    if (x <= greatest) {
      if (x > MINUS_INFINITY) sum += __expf(x - greatest);
    } else {
      sum = (greatest > MINUS_INFINITY ? sum * __expf(greatest - x) : 0.0f) + 1.0f;
      greatest = x;
    }
  };
  for (uint32_t id = threadIdx.x; id < vocabulary; id += blockDim.x) {
    if (penalised[id / 32] >> (id % 32) & 1) continue;
    float x = widen(own[id]);
    if (id == target) answer = x;
    add(x);
  }
  for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
    uint32_t id = ids[row * most + i];
    float x = widen(own[id]), factor = factors[row * most + i];
    x = x < 0.0f ? x * factor : x / factor;
    if (id == target) answer = x;
    add(x);
  }

  auto join = [&](float other_greatest, float other_sum) {
    float both = fmaxf(greatest, other_greatest);
    if (both > MINUS_INFINITY) sum = sum * __expf(greatest - both) + other_sum * __expf(other_greatest - both);
    greatest = both;
  };
  for (int lane = WARP / 2; lane > 0; lane /= 2) {
    float other_greatest = __shfl_xor_sync(ALL, greatest, lane), other_sum = __shfl_xor_sync(ALL, sum, lane);
    join(other_greatest, other_sum);
  }
  if (threadIdx.x % WARP == 0) {
    maxima[threadIdx.x / WARP] = greatest;
    sums[threadIdx.x / WARP] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (uint32_t warp = 1; warp < blockDim.x / WARP; warp++) join(maxima[warp], sums[warp]);
    out[row] = answer - (greatest + logf(sum));
  }
}

// ---- every kernel in every dtype ----

#define EVERY(T, NAME)                                                                                                   \
  extern "C" __global__ void finish_##NAME(T* x, const T* bias, const T* residual, size_t packs, uint32_t width,         \
                                           uint32_t activation) {                                                       \
    finish(x, bias, residual, packs, width, activation);                                                                \
  }                                                                                                                     \
  extern "C" __global__ void swiglu_##NAME(const T* x, T* out, size_t packs, uint32_t width) {                           \
    swiglu(x, out, packs, width);                                                                                       \
  }                                                                                                                     \
  extern "C" __global__ void rotate_##NAME(T* x, const float* cosines, const float* sines, const uint32_t* positions,    \
                                           uint32_t tokens, uint32_t width, uint32_t heads, uint32_t size,              \
                                           uint32_t pairs, uint32_t interleaved) {                                      \
    rotate(x, cosines, sines, positions, tokens, width, heads, size, pairs, interleaved);                               \
  }                                                                                                                     \
  extern "C" __global__ void split_##NAME(const T* x, const uint32_t* tokens, T* out, uint32_t places, uint32_t heads,   \
                                          uint32_t size, uint32_t scaled, float scale) {                                \
    split(x, tokens, out, places, heads, size, scaled, scale);                                                          \
  }                                                                                                                     \
  extern "C" __global__ void merge_##NAME(const T* x, const T* more, const uint32_t* tokens, T* out, uint32_t places,    \
                                          uint32_t heads, uint32_t size, uint32_t nowhere) {                            \
    merge(x, more, tokens, out, places, heads, size, nowhere);                                                          \
  }                                                                                                                     \
  extern "C" __global__ void weights_##NAME(const T* before, const T* own, T* out, const uint32_t* lengths,              \
                                            const float* bias, uint32_t queries, uint32_t rows, uint32_t length,        \
                                            uint32_t past, uint32_t past_width, uint32_t causal, uint32_t window,       \
                                            uint32_t kind, uint32_t reach) {                                            \
    Scores shape = {queries, rows, length, past, past_width, causal, window, kind, reach};                              \
    weights(before, own, out, lengths, bias, shape);                                                                    \
  }                                                                                                                     \
  extern "C" __global__ void disentangled_##NAME(T* scores, const T* by_queries, const T* by_keys,                       \
                                                 const uint32_t* lengths, const uint32_t* places, uint32_t rows,        \
                                                 uint32_t length, uint32_t count, uint32_t tile, uint32_t own) {        \
    Places shape = {rows, length, count, tile, own};                                                                    \
    disentangled(scores, by_queries, by_keys, lengths, places, shape);                                                  \
  }                                                                                                                     \
  extern "C" __global__ void log_probabilities_##NAME(                                                                  \
      const T* logits, const uint32_t* ids, const float* factors, const uint32_t* counts, const uint32_t* wanted,       \
      float* out, uint32_t vocabulary, uint32_t most) {                                                                 \
    log_probabilities(logits, ids, factors, counts, wanted, out, vocabulary, most);                                     \
  }

EVERY(float, f32)
EVERY(__half, f16)
EVERY(__nv_bfloat16, bf16)
