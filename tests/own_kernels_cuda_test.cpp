// With WICK_LIBRARIES=off no library of NVIDIA's is opened, and products and attention on CUDA are right without:
// against f64 on the CPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>

#include "backend/backend.h"
#include "backend/cuda/libraries.h"
#include "backend/cuda/runtime.h"
#include "backend/gemm.h"
#include "core/rng.h"
#include "op_matrix.h"
#include "ops/samples.h"
#include "wick/ops.h"

namespace wick::testing {
namespace {

// The variable is read once, when it is first needed.
[[maybe_unused]] const bool switched_off = setenv("WICK_LIBRARIES", "off", 1) == 0;

std::string opened_libraries() {
  std::ifstream maps("/proc/self/maps");
  std::string found;
  for (std::string line; std::getline(maps, line);) {
    for (const char* name : {"libcublas", "libcudnn", "libnccl"}) {
      if (line.find(name) != std::string::npos) found += line + "\n";
    }
  }
  return found;
}

Tensor random(const Shape& shape, DType dtype, std::uint32_t seed) {
  const Tensor t = Tensor::empty(shape, DType::f32);
  fill_uniform(t, -1, 1, 3, {RandomPurpose::initialisation, seed});
  return t.to(dtype);
}

TEST(OwnKernels, NoLibraryIsThere) {
  EXPECT_FALSE(cuda::libraries_wanted());
  for (const Backend::Library& library : cuda::libraries()) {
    EXPECT_FALSE(library.there) << library.name;
    EXPECT_EQ(library.text, "WICK_LIBRARIES=off") << library.name;
  }
  EXPECT_EQ(opened_libraries(), "");
}

class OwnKernelsOnCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    device_.type = DeviceType::cuda;
    if (const std::string missing = backend(device_).missing(device_); !missing.empty()) GTEST_SKIP() << missing;
  }
  // On the device, in rows that lie `gap` elements of NaN apart, or with dense columns instead.
  Tensor there(const Tensor& t, bool transposed, std::int64_t gap) const {
    const Tensor stored = transposed ? t.transpose(0, 1).contiguous() : t;
    const Tensor wide = Tensor::full({stored.size(0), stored.size(1) + gap}, std::nan(""), t.dtype(), device_);
    const Tensor copy = wide.slice(1, 0, stored.size(1));
    copy.copy_from(stored.to(device_));
    return transposed ? copy.transpose(0, 1) : copy;
  }
  Device device_;
};

// Parts of tiles each way, one row, sums of one product and of many.
TEST_F(OwnKernelsOnCuda, ProductsAreRight) {
  struct Types {
    DType in, out;
    double tolerance;
  };
  struct Extents {
    std::int64_t m, n, k;
  };
  for (const Types& types : {Types{DType::f64, DType::f64, 1e-13}, Types{DType::f32, DType::f32, 1e-5},
                             Types{DType::bf16, DType::bf16, 5e-3}, Types{DType::bf16, DType::f32, 1e-5},
                             Types{DType::f16, DType::f16, 1e-3}, Types{DType::f16, DType::f32, 1e-5}}) {
    for (const auto& [m, n, k] :
         {Extents{1, 40, 64}, Extents{64, 64, 16}, Extents{67, 33, 1}, Extents{130, 200, 1031}, Extents{9, 257, 100}}) {
      for (const int layout : {0, 1, 2, 3}) {
        for (const int kind : {0, 1, 2}) {  // alone, with beta, with a bias
          SCOPED_TRACE(::testing::Message() << to_string(types.in) << " to " << to_string(types.out) << ", " << m
                                            << " x " << n << " x " << k << ", layout " << layout << ", kind " << kind);
          const Tensor a = random({m, k}, types.in, 1);
          const Tensor b = random({k, n}, types.in, 2);
          const Tensor before = random({m, n}, types.out, 3);
          const Tensor bias = random({n}, types.out, 4);
          const Tensor right = (kind == 2 ? bias.to(DType::f64).expand({m, n}) : before.to(DType::f64)).clone();
          gemm(a.to(DType::f64), b.to(DType::f64), right, -1.5, kind == 0 ? 0.0 : kind == 1 ? 0.25 : 1.0);
          const Tensor c = there(kind == 1 ? before : Tensor::full({m, n}, std::nan(""), types.out), false, 5);
          gemm(there(a, layout % 2 == 1, 3), there(b, layout / 2 == 1, 7), c, -1.5, kind == 1 ? 0.25 : 0.0,
               kind == 2 ? bias.to(device_) : Tensor());
          EXPECT_LE(relative_error(c.to(Device::cpu()), right), types.tolerance);
        }
      }
    }
  }
  EXPECT_EQ(opened_libraries(), "");
}

// A shape that cuDNN would take.
TEST_F(OwnKernelsOnCuda, AttentionIsRight) {
  const Shape shape = {128, 4, 64};
  const OpSample sample = {.name = "attention",
                           .inputs = {normal(shape), normal(shape), normal(shape)},
                           .run = [](auto in) { return std::vector{attention(in[0], in[1], in[2], {})}; }};
  for (const DType dtype : {DType::bf16, DType::f16}) {
    SCOPED_TRACE(std::string(to_string(dtype)));
    const std::vector<Tensor> drawn = draw_inputs(sample, dtype, 7);
    const std::vector<Tensor> seeds = {random(shape, DType::bf16, 5).to(DType::f64)};
    const RunResult found = run_sample(sample, convert_inputs(sample, drawn, dtype, Layout::dense, device_), seeds);
    const FusedScope composite(false);
    const RunResult right = run_sample(sample, convert_inputs(sample, drawn, DType::f64, Layout::dense), seeds);
    EXPECT_LE(relative_error(found.outputs[0], right.outputs[0]), 4e-2);
    for (std::size_t i = 0; i < right.grads.size(); ++i) {
      EXPECT_LE(relative_error(found.grads[i], right.grads[i]), 4e-2) << "gradient " << i;
    }
  }
  EXPECT_EQ(opened_libraries(), "");
}

}  // namespace
}  // namespace wick::testing
