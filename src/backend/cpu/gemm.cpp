#include "backend/gemm.h"

#include <oneapi/dnnl/dnnl.hpp>

#include <array>
#include <cstdint>
#include <cstring>
#include <list>
#include <map>
#include <mutex>

#include "backend/backend.h"
#include "backend/cpu/gemv.h"
#include "backend/gemm_layout.h"
#include "core/dispatch.h"
#include "core/fail.h"
#include "core/parallel.h"
#include "core/strided.h"
#include "core/work.h"

namespace wick {
namespace {

using dnnl::memory;

// f64 and f16: never on the hot path (reference answers, conversions of small pieces), so plain loops.
template <class T>
void gemm_loops(const Tensor& a, const Tensor& b, const Tensor& c, double alpha, double beta) {
  using S = Accumulator<T>;
  const std::int64_t m = a.size(0);
  const std::int64_t k = a.size(1);
  const std::int64_t n = b.size(1);
  const T* pa = k == 0 ? nullptr : a.data<T>();
  const T* pb = k == 0 ? nullptr : b.data<T>();
  parallel_for(m, std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, k * n)),
               [&](std::int64_t begin, std::int64_t end) {
                 std::vector<S> row(static_cast<std::size_t>(n));
                 for (std::int64_t i = begin; i < end; ++i) {
                   std::fill(row.begin(), row.end(), S{});
                   for (std::int64_t p = 0; p < k; ++p) {
                     const S x = convert<S>(pa[i * a.stride(0) + p * a.stride(1)]);
                     const T* pr = pb + p * b.stride(0);
                     for (std::int64_t j = 0; j < n; ++j)
                       row[static_cast<std::size_t>(j)] += x * convert<S>(pr[j * b.stride(1)]);
                   }
                   const auto store = [&](auto* out) {
                     using C = std::remove_pointer_t<decltype(out)>;
                     for (std::int64_t j = 0; j < n; ++j) {
                       C& to = out[i * c.stride(0) + j];
                       const S old = beta == 0 ? S{} : static_cast<S>(beta) * convert<S>(to);
                       to = convert<C>(static_cast<S>(alpha) * row[static_cast<std::size_t>(j)] + old);
                     }
                   };
                   if (c.dtype() == a.dtype()) {
                     store(c.data<T>());
                   } else {
                     store(c.data<float>());
                   }
                 }
               });
}

dnnl::engine& cpu_engine() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

struct MatmulKey {
  std::int64_t m, n, k, lda, ldb, ldc;
  bool ta, tb;
  DType in, out;
  float alpha, beta;
  auto operator<=>(const MatmulKey&) const = default;
};

// Making a oneDNN primitive costs more than running a small one, so the recent ones are kept, least recently used out
// first.
class MatmulCache {
 public:
  dnnl::matmul get(const MatmulKey& key) {
    const std::scoped_lock lock(mutex_);
    if (const auto found = index_.find(key); found != index_.end()) {
      order_.splice(order_.begin(), order_, found->second);
      return order_.front().second;
    }
    order_.emplace_front(key, make(key));
    index_[key] = order_.begin();
    if (order_.size() > 512) {
      index_.erase(order_.back().first);
      order_.pop_back();
    }
    return order_.front().second;
  }

 private:
  static memory::data_type type_of(DType dtype) {
    return dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
  }
  static dnnl::matmul make(const MatmulKey& key) {
    const auto strides = [](bool transposed, std::int64_t leading) {
      return transposed ? memory::dims{1, leading} : memory::dims{leading, 1};
    };
    const memory::desc a({key.m, key.k}, type_of(key.in), strides(key.ta, key.lda));
    const memory::desc b({key.k, key.n}, type_of(key.in), strides(key.tb, key.ldb));
    const memory::desc c({key.m, key.n}, type_of(key.out), strides(false, key.ldc));
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (key.alpha != 1.0F) attributes.set_output_scales(0, {key.alpha});
    if (key.beta != 0.0F) {
      dnnl::post_ops ops;
      ops.append_sum(key.beta);
      attributes.set_post_ops(ops);
    }
    return dnnl::matmul(dnnl::matmul::primitive_desc(dnnl::matmul::desc(a, b, c), attributes, cpu_engine()));
  }

  std::mutex mutex_;
  std::list<std::pair<MatmulKey, dnnl::matmul>> order_;
  std::map<MatmulKey, decltype(order_)::iterator> index_;
};

// One workspace for all primitives of a thread: each would otherwise keep its own for as long as it is cached.
void* scratchpad(std::size_t bytes) {
  thread_local std::shared_ptr<Storage> workspace;
  if (workspace == nullptr || workspace->bytes() < bytes) {
    workspace = nullptr;
    workspace = Storage::allocate(bytes, Device::cpu());
  }
  return workspace->data();
}

void gemm_bf16(const MatmulKey& key, const Tensor& a, const Tensor& b, const Tensor& c) {
  static MatmulCache cache;
  thread_local dnnl::stream stream(cpu_engine());
  const dnnl::matmul primitive = cache.get(key);
  const auto* desc = primitive.get_primitive_desc();
  const auto md = [&](dnnl_query_t what, int index) {
    return dnnl::memory::desc(*dnnl_primitive_desc_query_md(desc, what, index));
  };
  const memory ma(md(dnnl_query_src_md, 0), cpu_engine(), a.raw());
  const memory mb(md(dnnl_query_weights_md, 0), cpu_engine(), b.raw());
  const memory mc(md(dnnl_query_dst_md, 0), cpu_engine(), c.raw());
  const memory::desc space = md(dnnl_query_scratchpad_md, 0);
  const memory ms(space, cpu_engine(), scratchpad(space.get_size()));
  primitive.execute(stream,
                    {{DNNL_ARG_SRC, ma}, {DNNL_ARG_WEIGHTS, mb}, {DNNL_ARG_DST, mc}, {DNNL_ARG_SCRATCHPAD, ms}});
}

void scale(const Tensor& c, double beta) {
  visit_floating(c.dtype(), [&](auto tag) {
    using T = decltype(tag);
    for_each_strided<const T, T>(
        c, c, [beta](const T& from, T& to) { to = beta == 0 ? T{} : convert<T>(beta * convert<double>(from)); });
  });
}

thread_local int tunings = 0;

}  // namespace

GemmTuning::GemmTuning() noexcept { ++tunings; }
GemmTuning::~GemmTuning() { --tunings; }
bool GemmTuning::wanted() noexcept { return tunings > 0; }

void gemm(const Tensor& a, const Tensor& b, const Tensor& c, double alpha, double beta, const Tensor& bias) {
  if (a.rank() != 2 || b.rank() != 2 || c.rank() != 2 || a.size(1) != b.size(0) || c.size(0) != a.size(0) ||
      c.size(1) != b.size(1)) {
    fail(ErrorCode::invalid_argument, "[gemm] shapes {} x {} -> {} do not fit", to_string(a.shape()),
         to_string(b.shape()), to_string(c.shape()));
  }
  const bool narrow = a.dtype() == DType::bf16 || a.dtype() == DType::f16;
  if (!is_floating(a.dtype()) || a.dtype() != b.dtype() ||
      (c.dtype() != a.dtype() && !(narrow && c.dtype() == DType::f32))) {
    fail(ErrorCode::invalid_argument, "[gemm] dtypes {} x {} -> {} are not supported", to_string(a.dtype()),
         to_string(b.dtype()), to_string(c.dtype()));
  }
  if (a.device() != c.device() || b.device() != c.device()) {
    fail(ErrorCode::invalid_argument, "[gemm] a is on {}, b on {}, c on {}", to_string(a.device()),
         to_string(b.device()), to_string(c.device()));
  }
  if (bias.defined() && (bias.rank() != 1 || bias.size(0) != c.size(1) || bias.dtype() != c.dtype() ||
                         bias.device() != c.device() || beta != 0)) {
    fail(ErrorCode::invalid_argument, "[gemm] a bias {} for c {} with beta {}: expected c's width and dtype, and 0",
         describe(bias), describe(c), beta);
  }
  if (c.numel() == 0) return;
  if (Backend* device = accelerator(c)) return device->gemm(a, b, c, alpha, beta, bias);
  if (bias.defined()) {  // oneDNN adds to what is there
    c.copy_from(bias.expand(c.shape()));
    return gemm(a, b, c, alpha, 1.0);
  }
  const GemmLayout lc = gemm_layout(c, "c");
  if (lc.transposed) fail(ErrorCode::invalid_argument, "[gemm] the columns of c must be dense");
  if (a.size(1) == 0) return scale(c, beta);
  const WorkScope scope(gemm_work(a, b, c, beta));
  if (a.dtype() == DType::f64) return gemm_loops<double>(a, b, c, alpha, beta);
  if (a.dtype() == DType::f16) return gemm_loops<f16>(a, b, c, alpha, beta);
  const GemmLayout la = gemm_layout(a, "a");
  const GemmLayout lb = gemm_layout(b, "b");
  const std::int64_t m = a.size(0);
  const std::int64_t k = a.size(1);
  const std::int64_t n = b.size(1);
  if (a.dtype() == DType::bf16 && m == 1 && a.stride(1) == 1 && lb.transposed) {
    return gemv_bf16(a, b.transpose(0, 1), c, static_cast<float>(alpha), static_cast<float>(beta));
  }
  try {
    if (a.dtype() == DType::f32) {
      const dnnl_status_t status = dnnl_sgemm(la.transposed ? 'T' : 'N', lb.transposed ? 'T' : 'N', m, n, k,
                                              static_cast<float>(alpha), a.data<float>(), la.leading, b.data<float>(),
                                              lb.leading, static_cast<float>(beta), c.data<float>(), lc.leading);
      if (status != dnnl_success)
        fail(ErrorCode::device, "[gemm] oneDNN failed with status {}", static_cast<int>(status));
      return;
    }
    const MatmulKey key{m,
                        n,
                        k,
                        la.leading,
                        lb.leading,
                        lc.leading,
                        la.transposed,
                        lb.transposed,
                        a.dtype(),
                        c.dtype(),
                        static_cast<float>(alpha),
                        static_cast<float>(beta)};
    gemm_bf16(key, a, b, c);
  } catch (const dnnl::error& error) {
    fail(ErrorCode::device, "[gemm] oneDNN failed: {}", error.what());
  }
}

}  // namespace wick
