// The primitive operations on CUDA: what composites run on. One thread an element (or an output), any strides.
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "backend/cuda/backend.h"
#include "backend/cuda/philox.cuh"
#include "backend/cuda/strided.cuh"

namespace wick::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Any element type to any other, as wick::convert() does on the host.
template <class To, class From>
__device__ To convert(From value) {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (std::is_arithmetic_v<From> && std::is_arithmetic_v<To>) {
    return static_cast<To>(value);
  } else if constexpr (std::is_arithmetic_v<From>) {
    return from_float<To>(static_cast<float>(value));
  } else {
    return convert<To>(to_float(value));
  }
}

template <class F>
__global__ void each(std::int64_t count, F body) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) body(i);
}

template <class F>
void for_each(const char* name, std::int64_t count, double bytes, const F& body) {
  launch({name, bytes}, each<F>, {.grid = {blocks_for(count, kThreads)}, .block = {kThreads}}, count, body);
}

double bytes_of(const Tensor& t) { return static_cast<double>(t.numel()) * static_cast<double>(size_of(t.dtype())); }

// A scalar as the device's type, from the host's double.
template <class T>
T scalar(double value) {
  if constexpr (std::is_arithmetic_v<T>) {
    return static_cast<T>(value);
  } else {
    return from_float<T>(static_cast<float>(value));
  }
}

// Rows of equal length, 16 bytes at a time: what a copy of a column slice is.
template <class T>
__global__ void copy_rows(const T* from, T* to, std::int64_t rows, std::int64_t packs_per_row, std::int64_t from_stride,
                          std::int64_t to_stride) {
  constexpr int kPack = Pack<T>::kSize;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= rows * packs_per_row) return;
  const std::int64_t row = i / packs_per_row;
  const std::int64_t at = i % packs_per_row * kPack;
  store_pack(to + row * to_stride + at, load_pack(from + row * from_stride + at));
}

bool copy_packed(const Tensor& from, const Tensor& to, const Walk<2>& w) {
  if (from.dtype() != to.dtype() || w.dims < 1 || w.dims > 2) return false;
  const int last = w.dims - 1;
  const auto per_pack = static_cast<std::int64_t>(16 / size_of(from.dtype()));
  if (w.stride[0][last] != 1 || w.stride[1][last] != 1 || w.extent[last] % per_pack != 0) return false;
  const std::int64_t from_stride = w.dims == 2 ? w.stride[0][0] : 0;
  const std::int64_t to_stride = w.dims == 2 ? w.stride[1][0] : 0;
  if (!packs(from, from_stride) || !packs(to, to_stride)) return false;
  const std::int64_t rows = w.dims == 2 ? w.extent[0] : 1;
  visit_any(from.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const std::int64_t packs_per_row = w.extent[last] / per_pack;
    launch({"copy", 2 * bytes_of(to)}, copy_rows<T>,
           {.grid = {blocks_for(rows * packs_per_row, kThreads)}, .block = {kThreads}}, pointer<T>(from),
           pointer<T>(to), rows, packs_per_row, from_stride, to_stride);
  });
  return true;
}

// y[...] = combine over one dimension, in double as on the CPU: a block an output, in a fixed order.
template <class T, Reduction op>
__global__ void reduce_dim(const T* x, T* y, Walk<1> outputs, std::int64_t extent, std::int64_t step) {
  std::int64_t at[1];
  outputs.offsets(blockIdx.x, at);
  double value = op == Reduction::sum ? 0.0 : -INFINITY;
  for (std::int64_t k = threadIdx.x; k < extent; k += kThreads) {
    const double term = convert<double>(x[at[0] + k * step]);
    if constexpr (op == Reduction::sum) value += term;
    if constexpr (op == Reduction::max) value = term > value ? term : value;
  }
  __shared__ double parts[kThreads];
  parts[threadIdx.x] = value;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      const double other = parts[threadIdx.x + half];
      double& mine = parts[threadIdx.x];
      mine = op == Reduction::sum ? mine + other : (other > mine ? other : mine);
    }
  }
  if (threadIdx.x == 0) y[blockIdx.x] = convert<T>(parts[0]);
}

// The same where outputs are many and what is summed for each is short: a thread an output.
template <class T, Reduction op>
__global__ void reduce_dim_short(const T* x, T* y, Walk<1> outputs, std::int64_t extent, std::int64_t step) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= outputs.count) return;
  std::int64_t at[1];
  outputs.offsets(i, at);
  double value = op == Reduction::sum ? 0.0 : -INFINITY;
  for (std::int64_t k = 0; k < extent; ++k) {
    const double term = convert<double>(x[at[0] + k * step]);
    if constexpr (op == Reduction::sum) value += term;
    if constexpr (op == Reduction::max) value = term > value ? term : value;
  }
  y[i] = convert<T>(value);
}

// What one thread does, by operation.
template <class From, class To>
struct Convert {
  Walk<2> w;
  const From* x;
  To* y;
  __device__ void operator()(std::int64_t i) const {
    std::int64_t at[2];
    w.offsets(i, at);
    y[at[1]] = convert<To>(x[at[0]]);
  }
};

template <class T>
struct Fill {
  Walk<1> w;
  T* y;
  T value;
  __device__ void operator()(std::int64_t i) const {
    std::int64_t at[1];
    w.offsets(i, at);
    y[at[0]] = value;
  }
};

template <class T, Unary op>
struct ApplyUnary {
  Walk<2> w;
  const T* x;
  T* y;
  Sum<T> value;
  __device__ void operator()(std::int64_t i) const {
    std::int64_t at[2];
    w.offsets(i, at);
    y[at[1]] = convert<T>(apply<op>(convert<Sum<T>>(x[at[0]]), value));
  }
};

template <class T, Binary op>
struct ApplyBinary {
  Walk<3> w;
  const T* a;
  const T* b;
  T* y;
  __device__ void operator()(std::int64_t i) const {
    std::int64_t at[3];
    w.offsets(i, at);
    y[at[2]] = convert<T>(apply<op>(convert<Sum<T>>(a[at[0]]), convert<Sum<T>>(b[at[1]])));
  }
};

template <class From, class To>
struct AddInto {
  Walk<2> w;
  const From* x;
  To* y;
  __device__ void operator()(std::int64_t i) const {
    std::int64_t at[2];
    w.offsets(i, at);
    y[at[1]] = convert<To>(static_cast<Sum<To>>(convert<Sum<To>>(y[at[1]]) + convert<Sum<To>>(x[at[0]])));
  }
};

template <class T, class By>
struct Scale {
  T* y;
  const By* by;
  __device__ void operator()(std::int64_t i) const { y[i] = convert<T>(convert<Sum<T>>(y[i]) * convert<Sum<T>>(*by)); }
};

__global__ void add_to(std::int32_t* counter, std::int32_t by) {
  wait_for_previous();
  allow_next();
  *counter += by;
}

template <class T>
struct Where {
  Walk<3> w;
  const std::int32_t* mask;
  const T* x;
  T* y;
  T other;
  __device__ void operator()(std::int64_t i) const {
    std::int64_t at[3];
    w.offsets(i, at);
    y[at[2]] = mask[at[0]] != 0 ? x[at[1]] : other;
  }
};

template <class T>
struct GatherRows {
  const T* x;
  const std::int32_t* indices;
  T* y;
  std::int64_t rows, row;  // extents of x
  T missing;
  __device__ void operator()(std::int64_t i) const {
    const std::int64_t from = indices[i / row];
    y[i] = from >= 0 && from < rows ? x[from * row + i % row] : missing;
  }
};

// A thread a column of dx walks the indices in order, so rows that are named twice add up in the same order every run.
template <class T>
struct AddRows {
  const T* dy;
  const std::int32_t* indices;
  T* dx;
  std::int64_t count, rows, row;
  __device__ void operator()(std::int64_t column) const {
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t to = indices[i];
      if (to < 0 || to >= rows) continue;
      T& sum = dx[to * row + column];
      sum = convert<T>(convert<Sum<T>>(sum) + convert<Sum<T>>(dy[i * row + column]));
    }
  }
};

template <class T>
struct GatherColumns {
  const T* x;
  const std::int32_t* indices;
  T* y;
  std::int64_t columns, row_stride, column_stride;
  T missing;
  __device__ void operator()(std::int64_t i) const {
    const std::int64_t from = indices[i];
    y[i] = from >= 0 && from < columns ? x[i * row_stride + from * column_stride] : missing;
  }
};

template <class T>
struct ScatterColumns {
  const T* dy;
  const std::int32_t* indices;
  T* dx;
  std::int64_t columns;
  __device__ void operator()(std::int64_t i) const {
    const std::int64_t to = indices[i];
    if (to >= 0 && to < columns) dx[i * columns + to] = dy[i];
  }
};

template <class T>
struct FillUniform {
  T* y;
  std::int64_t count;
  float start, width;
  uint2 key;
  std::uint32_t index, purpose;
  std::uint64_t first_block;
  __device__ void operator()(std::int64_t i) const {
    const std::uint64_t block = first_block + static_cast<std::uint64_t>(i);
    const uint4 words =
        philox({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), index, purpose}, key);
    const std::uint32_t w[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (i * 4 + j < count) {
        const float unit = static_cast<float>(w[j] >> 8) * 0x1p-24F;
        y[i * 4 + j] = convert<T>(__fadd_rn(start, __fmul_rn(width, unit)));
      }
    }
  }
};

template <class T>
struct DropOut {
  const T* x;
  T* y;
  std::int64_t count;
  double p;
  Sum<T> keep;
  uint2 key;
  std::uint32_t module;
  std::uint64_t first_block;
  __device__ void operator()(std::int64_t i) const {
    constexpr std::uint32_t kPurpose = 1;  // RandomPurpose::dropout
    const std::uint64_t block = first_block + static_cast<std::uint64_t>(i);
    const uint4 words =
        philox({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), module, kPurpose}, key);
    const std::uint32_t w[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const std::int64_t at = i * 4 + j;
      if (at >= count) break;
      const bool kept = static_cast<double>(static_cast<float>(w[j] >> 8) * 0x1p-24F) >= p;
      y[at] = kept ? convert<T>(convert<Sum<T>>(x[at]) * keep) : convert<T>(Sum<T>(0));
    }
  }
};

}  // namespace

void Primitives::copy_strided(const Tensor& from, const Tensor& to) {
  const Walk<2> w = walk<2>({&from, &to});
  if (copy_packed(from, to, w)) return;
  visit_any(from.dtype(), [&](auto source) {
    visit_any(to.dtype(), [&](auto target) {
      using From = decltype(source);
      using To = decltype(target);
      for_each("copy", w.count, bytes_of(from) + bytes_of(to),
               Convert<From, To>{w, pointer<From>(from), pointer<To>(to)});
    });
  });
}

void Primitives::fill(const Tensor& t, double value) {
  if (t.numel() == 0) return;
  if (value == 0 && t.is_contiguous()) {
    const WorkScope scope({"fill", bytes_of(t)});
    check(cudaMemsetAsync(t.raw(), 0, static_cast<std::size_t>(bytes_of(t)), stream(t.device().index)), "clearing");
    return;
  }
  const Walk<1> w = walk<1>({&t});
  visit_any(t.dtype(), [&](auto tag) {
    using T = decltype(tag);
    for_each("fill", w.count, bytes_of(t), Fill<T>{w, pointer<T>(t), scalar<T>(value)});
  });
}

void Primitives::unary(Unary op, const Tensor& x, double value, const Tensor& y) {
  const Walk<2> w = walk<2>({&x, &y});
  visit_floating(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    visit(op, [&](auto constant) {
      for_each("unary", w.count, bytes_of(x) + bytes_of(y),
               ApplyUnary<T, decltype(constant)::value>{w, pointer<T>(x), pointer<T>(y), static_cast<Sum<T>>(value)});
    });
  });
}

void Primitives::binary(Binary op, const Tensor& a, const Tensor& b, const Tensor& y) {
  const Walk<3> w = walk<3>({&a, &b, &y});
  visit_floating(a.dtype(), [&](auto tag) {
    using T = decltype(tag);
    visit(op, [&](auto constant) {
      for_each("binary", w.count, bytes_of(a) + bytes_of(b) + bytes_of(y),
               ApplyBinary<T, decltype(constant)::value>{w, pointer<T>(a), pointer<T>(b), pointer<T>(y)});
    });
  });
}

void Primitives::add_into(const Tensor& source, const Tensor& target) {
  const Walk<2> w = walk<2>({&source, &target});
  visit_floating(source.dtype(), [&](auto s) {
    visit_floating(target.dtype(), [&](auto t) {
      using From = decltype(s);
      using To = decltype(t);
      for_each("add", w.count, bytes_of(source) + 2 * bytes_of(target),
               AddInto<From, To>{w, pointer<From>(source), pointer<To>(target)});
    });
  });
}

void Primitives::scale(const Tensor& t, const Tensor& by) {
  visit_floating(t.dtype(), [&](auto tag) {
    visit_floating(by.dtype(), [&](auto by_tag) {
      using T = decltype(tag);
      using By = decltype(by_tag);
      for_each("scale", t.numel(), 2 * bytes_of(t), Scale<T, By>{pointer<T>(t), pointer<By>(by)});
    });
  });
}

void Primitives::advance(const Tensor& counter, std::int32_t by) {
  launch({"advance", 8}, add_to, {.grid = {1}, .block = {1}, .overlap = true}, pointer<std::int32_t>(counter), by);
}

void Primitives::where(const Tensor& mask, const Tensor& x, double value, const Tensor& y) {
  const Walk<3> w = walk<3>({&mask, &x, &y});
  visit_floating(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    for_each("where", w.count, bytes_of(mask) + 2 * bytes_of(x),
             Where<T>{w, pointer<std::int32_t>(mask), pointer<T>(x), pointer<T>(y), scalar<T>(value)});
  });
}

void Primitives::reduce(Reduction op, const Tensor& x, int dim, const Tensor& y) {
  if (x.size(dim) == 0) return fill(y, op == Reduction::sum ? 0.0 : -INFINITY);
  const Tensor firsts = x.slice(dim, 0, 1);
  const Walk<1> outputs = walk<1>({&firsts});
  const std::int64_t extent = x.size(dim);
  const std::int64_t step = x.stride(dim);
  const bool many = outputs.count >= 4096 && extent <= 256;
  const unsigned grid = many ? blocks_for(outputs.count, kThreads) : static_cast<unsigned>(outputs.count);
  visit_floating(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const auto run = [&](auto kernel) {
      launch({"reduce", bytes_of(x) + bytes_of(y)}, kernel, {.grid = {grid}, .block = {kThreads}}, pointer<T>(x),
             pointer<T>(y), outputs, extent, step);
    };
    if (op == Reduction::sum) {
      run(many ? reduce_dim_short<T, Reduction::sum> : reduce_dim<T, Reduction::sum>);
    } else {
      run(many ? reduce_dim_short<T, Reduction::max> : reduce_dim<T, Reduction::max>);
    }
  });
}

void Primitives::gather_rows(const Tensor& x, const Tensor& indices, const Tensor& y) {
  if (y.numel() == 0) return;
  const Tensor dense = x.contiguous();
  visit_floating(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    for_each("gather rows", y.numel(), 2 * bytes_of(y),
             GatherRows<T>{pointer<T>(dense), pointer<std::int32_t>(indices), pointer<T>(y), x.size(0),
                           y.numel() / y.size(0), scalar<T>(NAN)});
  });
}

void Primitives::add_rows(const Tensor& dy, const Tensor& indices, const Tensor& dx) {
  if (dx.numel() == 0) return;
  const Tensor dense = dy.contiguous();
  const std::int64_t row = dx.numel() / dx.size(0);
  visit_floating(dx.dtype(), [&](auto tag) {
    using T = decltype(tag);
    for_each("add rows", row, 2 * bytes_of(dy),
             AddRows<T>{pointer<T>(dense), pointer<std::int32_t>(indices), pointer<T>(dx), indices.numel(), dx.size(0),
                        row});
  });
}

void Primitives::gather_columns(const Tensor& x, const Tensor& indices, const Tensor& y) {
  visit_floating(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    for_each("gather columns", y.numel(), 2 * bytes_of(y),
             GatherColumns<T>{pointer<T>(x), pointer<std::int32_t>(indices), pointer<T>(y), x.size(1), x.stride(0),
                              x.stride(1), scalar<T>(NAN)});
  });
}

void Primitives::scatter_columns(const Tensor& dy, const Tensor& indices, const Tensor& dx) {
  const Tensor dense = dy.contiguous();
  visit_floating(dx.dtype(), [&](auto tag) {
    using T = decltype(tag);
    for_each("scatter columns", dense.numel(), 2 * bytes_of(dense),
             ScatterColumns<T>{pointer<T>(dense), pointer<std::int32_t>(indices), pointer<T>(dx), dx.size(1)});
  });
}

void Primitives::fill_uniform(const Tensor& t, double low, double high, const Stream& stream,
                              std::uint64_t first_block) {
  const uint2 key = {static_cast<std::uint32_t>(stream.seed), static_cast<std::uint32_t>(stream.seed >> 32)};
  visit_floating(t.dtype(), [&](auto tag) {
    using T = decltype(tag);
    for_each("fill", (t.numel() + 3) / 4, bytes_of(t),
             FillUniform<T>{pointer<T>(t), t.numel(), static_cast<float>(low), static_cast<float>(high - low), key,
                            stream.index, stream.purpose, first_block});
  });
}

void Primitives::dropout(const Tensor& x, const Dropout& options, const Tensor& y) {
  const Tensor dense = x.contiguous();
  const uint2 key = {static_cast<std::uint32_t>(options.seed), static_cast<std::uint32_t>(options.seed >> 32)};
  visit_floating(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    for_each(
        "dropout", (y.numel() + 3) / 4, 2 * bytes_of(x),
        DropOut<T>{pointer<T>(dense), pointer<T>(y), y.numel(), options.p, static_cast<Sum<T>>(1.0 / (1.0 - options.p)),
                   key, options.module, static_cast<std::uint64_t>(options.pass) << 32});
  });
}

}  // namespace wick::cuda
