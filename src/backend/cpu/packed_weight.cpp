#include "backend/cpu/packed_weight.h"

#include <oneapi/dnnl/dnnl.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <string_view>
#include <tuple>

#include "core/fail.h"
#include "core/parallel.h"
#include "core/work.h"

namespace wick {
namespace {

using dnnl::memory;

// Tall enough that a tile's part of the weight, which comes from the second or third cache, is read at leisure.
constexpr std::int64_t kTileRows = 64;
constexpr std::int64_t kRowStep = 8;  // heights of tiles are multiples of it, where several are safe
// Wide enough that a call costs little beside its work, narrow enough that few rows are work for several threads.
constexpr std::int64_t kPartRows = 192;

dnnl::engine& engine() {
  static dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

// The library plans for, and takes, as many threads as OpenMP offers.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

memory::data_type type_of(DType dtype) {
  return dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

// The product of tiles of one height.
struct Product {
  dnnl::matmul primitive;
  memory::desc x, weight, y, scratchpad;
  bool blocked;  // one of the kernels (brgemm) whose sums do not depend on the height

  Product(std::int64_t rows, std::int64_t n, std::int64_t k, DType dtype) {
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    x = memory::desc({rows, k}, type_of(dtype), memory::dims{k, 1});
    y = memory::desc({rows, n}, memory::data_type::f32, memory::dims{n, 1});
    const memory::desc any({k, n}, type_of(dtype), memory::format_tag::any);
    const dnnl::matmul::primitive_desc desc(dnnl::matmul::desc(x, any, y), attributes, engine());
    weight = desc.weights_desc();
    scratchpad = desc.scratchpad_desc();
    blocked = std::string_view(desc.impl_info_str()).starts_with("brg");
    primitive = dnnl::matmul(desc);
  }
};

struct Products {
  std::int64_t step;             // between heights
  std::vector<Product> heights;  // [i]: of (i + 1) * step rows, up to kTileRows
};

std::shared_ptr<const Products> products(std::int64_t n, std::int64_t k, DType dtype) {
  static std::mutex mutex;
  static std::map<std::tuple<std::int64_t, std::int64_t, DType>, std::shared_ptr<const Products>> known;
  const std::scoped_lock lock(mutex);
  std::shared_ptr<const Products>& found = known[{n, k, dtype}];
  if (found == nullptr) {
    // Without AVX-512 the library has no such kernels, and only one height makes rows alike.
    const auto made = std::make_shared<Products>(Products{kTileRows, {}});
    Product whole(kTileRows, n, k, dtype);
    if (whole.blocked) {
      made->step = kRowStep;
      for (std::int64_t rows = kRowStep; rows < kTileRows; rows += kRowStep) {
        const Product& low = made->heights.emplace_back(rows, n, k, dtype);
        if (low.weight != whole.weight) fail(ErrorCode::device, "oneDNN's layout of a weight depends on rows");
      }
    }
    made->heights.push_back(std::move(whole));
    found = made;
  }
  return found;
}

// Memory of the calling thread, at least this much; `slot` tells several apart.
std::byte* scratch(std::size_t slot, std::size_t bytes) {
  thread_local std::array<std::shared_ptr<Storage>, 3> kept;
  std::shared_ptr<Storage>& storage = kept[slot];
  if (storage == nullptr || storage->bytes() < bytes) {
    storage = nullptr;
    storage = Storage::allocate(bytes, Device::cpu());
  }
  return storage->data();
}

}  // namespace

// Some rows of the weight, that is, columns of the product.
struct PackedWeight::Part {
  std::int64_t begin, count;
  std::shared_ptr<const Products> products;
  std::shared_ptr<Storage> storage;
  memory packed;

  Part(const Tensor& weight, std::int64_t begin, std::int64_t count)
      : begin(begin), count(count), products(wick::products(count, weight.size(1), weight.dtype())) {
    const memory::desc& layout = products->heights.back().weight;
    storage = Storage::allocate(layout.get_size(), Device::cpu());
    packed = memory(layout, engine(), storage->data());
    const Tensor rows = weight.slice(0, begin, count);
    const memory plain({{rows.size(1), count}, type_of(rows.dtype()), memory::dims{1, rows.stride(0)}}, engine(),
                       rows.raw());
    dnnl::stream stream(engine());
    dnnl::reorder(plain, packed).execute(stream, const_cast<memory&>(plain), packed);
    stream.wait();
  }

  // y [rows, count] = x [rows, k] times this; rows: a multiple of the step.
  void multiply(const std::byte* x, std::int64_t rows, float* y) const {
    thread_local dnnl::stream stream(engine());
    const Product& product = products->heights[static_cast<std::size_t>(rows / products->step - 1)];
    const memory from(product.x, engine(), const_cast<std::byte*>(x));
    const memory to(product.y, engine(), y);
    const memory space(product.scratchpad, engine(), scratch(2, product.scratchpad.get_size()));
    product.primitive.execute(
        stream, {{DNNL_ARG_SRC, from}, {DNNL_ARG_WEIGHTS, packed}, {DNNL_ARG_DST, to}, {DNNL_ARG_SCRATCHPAD, space}});
  }
};

bool PackedWeight::takes(const Tensor& weight) {
  return weight.device().type == DeviceType::cpu && (weight.dtype() == DType::f32 || weight.dtype() == DType::bf16) &&
         weight.rank() == 2 && weight.numel() > 0;
}

PackedWeight::PackedWeight(const Tensor& weight)
    : rows_(weight.size(0)), columns_(weight.size(1)), dtype_(weight.dtype()) {
  const OneThread one;
  try {
    for (std::int64_t begin = 0; begin < rows_; begin += kPartRows) {
      parts_.push_back(std::make_shared<const Part>(weight, begin, std::min(kPartRows, rows_ - begin)));
    }
  } catch (const dnnl::error& error) {
    fail(ErrorCode::device, "oneDNN cannot multiply with a {} weight [{}, {}]: {}", to_string(dtype_), rows_, columns_,
         error.what());
  }
}

void PackedWeight::multiply(const Tensor& x, const std::function<void(const Tile&)>& finish) const {
  const std::int64_t m = x.size(0);
  const auto count = static_cast<std::int64_t>(parts_.size());
  const std::size_t row_bytes = static_cast<std::size_t>(columns_) * size_of(dtype_);
  const auto elements = [](std::int64_t a, std::int64_t b) { return static_cast<double>(a) * static_cast<double>(b); };
  const WorkScope scope(
      {.name = "gemm",
       .bytes = (elements(m, columns_) + elements(rows_, columns_)) * static_cast<double>(size_of(dtype_)) +
                elements(m, rows_) * static_cast<double>(size_of(dtype_)),
       .flops = 2 * elements(m, columns_) * static_cast<double>(rows_),
       .m = m,
       .n = rows_,
       .k = columns_});
  // Few rows make lower tiles where there are threads for them.
  const std::int64_t threads = omp_in_parallel() != 0 ? 1 : omp_get_max_threads();
  std::int64_t height = kTileRows;
  while (height > kRowStep && count * ((m + height - 1) / height) < threads) height /= 2;
  const std::int64_t tiles = (m + height - 1) / height;
  // A piece of at least 2^20 multiplications: less is not worth another thread.
  const std::int64_t grain =
      std::max<std::int64_t>(1, (std::int64_t{1} << 20) / (std::min(height, m) * kPartRows * columns_ + 1));
  // Part by part, so that a thread's stretch of tiles finds its part of the weight in its cache.
  parallel_for(count * tiles, grain, [&](std::int64_t begin, std::int64_t end) {
    const OneThread one;
    auto* const y =
        reinterpret_cast<float*>(scratch(0, static_cast<std::size_t>(kTileRows * kPartRows) * sizeof(float)));
    for (std::int64_t item = begin; item < end; ++item) {
      const Part& part = *parts_[static_cast<std::size_t>(item / tiles)];
      const std::int64_t row = item % tiles * height;
      const std::int64_t rows = std::min(height, m - row);
      const std::int64_t step = part.products->step;
      const std::int64_t padded = (rows + step - 1) / step * step;
      const std::byte* from = x.raw() + static_cast<std::size_t>(row) * row_bytes;
      if (padded > rows) {
        std::byte* const copy = scratch(1, static_cast<std::size_t>(kTileRows) * row_bytes);
        const std::size_t bytes = static_cast<std::size_t>(rows) * row_bytes;
        std::memcpy(copy, from, bytes);
        std::memset(copy + bytes, 0, static_cast<std::size_t>(padded - rows) * row_bytes);
        from = copy;
      }
      try {
        part.multiply(from, padded, y);
      } catch (const dnnl::error& error) {
        fail(ErrorCode::device, "oneDNN failed: {}", error.what());
      }
      finish({y, row, rows, part.begin, part.count});
    }
  });
}

}  // namespace wick
