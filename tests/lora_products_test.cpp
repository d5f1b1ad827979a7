// The bordered linear on matrices that take more than one tile of a kernel each way, on the device of WICK_TEST_DEVICE,
// against f64 products on the CPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <random>

#include "backend/gemm.h"
#include "op_matrix.h"
#include "ops/lora_linear/lora_linear.h"
#include "ops/lora_linear/lora_outer_plan.h"
#include "wick/autograd.h"

namespace wick::testing {
namespace {

struct Sibling {
  std::int64_t out, rank;
  double scale;
};
struct Case {
  std::int64_t tokens, in;
  std::vector<Sibling> siblings;
  bool bordered_dy = true;
};

Tensor random(const Shape& shape, DType dtype, double size, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, static_cast<float>(size));
  std::vector<float> values(static_cast<std::size_t>(numel(shape)));
  for (float& value : values) value = normal(generator);
  return Tensor::from(values, shape).to(dtype);
}

// On the device, in memory with `border` spare columns that hold NaN.
Tensor bordered(const Tensor& t, std::int64_t border, Device device) {
  Tensor copy = Tensor::bordered(t.shape(), border, t.dtype(), device);
  if (border > 0) {
    const Tensor spare = copy.border_columns();  // more, on a GPU
    spare.copy_from(Tensor::full(spare.shape(), std::nan(""), t.dtype(), device));
  }
  copy.copy_from(t.to(device));
  return copy;
}

Tensor product(const Tensor& a, const Tensor& b) {
  const Tensor c = Tensor::empty({a.size(0), b.size(1)}, DType::f64);
  gemm(a.to(DType::f64), b.to(DType::f64), c);
  return c;
}

class LoraProducts : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Dtypes, LoraProducts, ::testing::Values(DType::bf16, DType::f16, DType::f32),
                         [](const auto& param) { return std::string(to_string(param.param)); });

TEST_P(LoraProducts, OfManyTiles) {
  const DType dtype = GetParam();
  const Device device = test_device();
  const NoGrad no_grad;
  const Case cases[] = {
      {130, 72, {{40, 3, 2.0}, {16, 0, 1.0}, {24, 20, 0.25}}},
      {300, 264, {{1160, 16, 0.5}}},
      {300, 1160, {{264, 16, 0.5}}, false},
      {900, 136, {{264, 16, 2.0}, {136, 16, 1.0}, {136, 16, 1.5}}},
      {200, 72, {{1032, 64, 1.0}}},
      {17, 8, {{8, 1, 1.0}}},
      {1100, 200, {{264, 16, 2.0}, {72, 16, 1.0}, {136, 16, 1.5}}},
      {600, 264, {{136, 32, 0.5}}},
      {9, 16, {{8, 5, 1.0}, {24, 11, 2.0}}},
      {300, 2056, {{520, 16, 0.5}}},  // two columns of tiles share the narrow sum
      {17100, 72, {{264, 16, 0.5}}},  // more rows of tiles than multiprocessors
  };
  // A result rounded to the dtype, made of results that were.
  const double tolerance = dtype == DType::f32 ? 1e-5 : dtype == DType::f16 ? 2e-3 : 1.5e-2;
  for (const Case& c : cases) {
    SCOPED_TRACE(::testing::Message() << c.tokens << " tokens, " << c.in << " in, " << c.siblings.size()
                                      << " siblings");
    std::int64_t out = 0;
    std::vector<LoraBranch> branches;
    std::vector<LoraBranch> on_device;
    for (const Sibling& s : c.siblings) {
      LoraBranch branch{s.out, {}, {}, s.scale};
      if (s.rank > 0) {
        branch.a = random({s.rank, c.in}, DType::f32, 0.3, 1).to(dtype).to(DType::f32);
        branch.b = random({s.out, s.rank}, DType::f32, 0.3, 2).to(dtype).to(DType::f32);
      }
      branches.push_back(branch);
      if (s.rank > 0) {
        branch.a = branch.a.to(device);
        branch.b = branch.b.to(device);
      }
      on_device.push_back(branch);
      out += s.out;
    }
    const Tensor w = random({out, c.in}, dtype, 0.3, 3);
    const Tensor x = random({c.tokens, c.in}, dtype, 1, 4);
    const Tensor dy = random({c.tokens, out}, dtype, 1, 5);
    const LoraWeight weight(w.to(device), on_device, LoraLayout::bordered);
    const Tensor x_there = bordered(x, weight.rank(), device);
    const Tensor dy_there = bordered(dy, c.bordered_dy ? weight.rank() : 0, device);
    const LoraForward forward = lora_forward(x_there, weight, {});
    const std::vector<bool> all(branches.size(), true);
    const GradPlace place(x_there);
    const LoraGradients gradients = lora_backward(dy_there, x_there, forward.h, weight, &place, all, all);

    const Tensor y = product(x, w.transpose(0, 1));
    const Tensor dx = product(dy, w);
    for (std::size_t i = 0; i < branches.size(); ++i) {
      if (!branches[i].a.defined()) {
        EXPECT_FALSE(gradients.da[i].defined() || gradients.db[i].defined());
        continue;
      }
      const LoraWeight::Block& block = weight.blocks()[i];
      const Tensor a = branches[i].a.to(DType::f64);
      const Tensor b = branches[i].b.to(DType::f64);
      const Tensor dy_i = dy.slice(1, block.out_begin, block.out_size).to(DType::f64);
      const Tensor h = product(x, a.transpose(0, 1));
      const Tensor g = product(dy_i, b);
      gemm(h, b.transpose(0, 1), y.slice(1, block.out_begin, block.out_size), block.scale, 1.0);
      gemm(g, a, dx, block.scale, 1.0);
      const Tensor db = Tensor::empty(b.shape(), DType::f64);
      gemm(dy_i.transpose(0, 1), h, db, block.scale);
      const Tensor da = Tensor::empty(a.shape(), DType::f64);
      gemm(g.transpose(0, 1), x.to(DType::f64), da, block.scale);
      EXPECT_LE(relative_error(gradients.da[i], da), tolerance) << "dA of " << i;
      EXPECT_LE(relative_error(gradients.db[i], db), tolerance) << "dB of " << i;
    }
    EXPECT_LE(relative_error(forward.y, y), tolerance) << "y";
    EXPECT_LE(relative_error(gradients.dx, dx), tolerance) << "dx";
  }
}

// Of three siblings the first has no gradient of A, the second none of B; what is wanted is added to what is there.
TEST_P(LoraProducts, AreAddedWhereTheyAreWanted) {
  const DType dtype = GetParam();
  const Device device = test_device();
  const NoGrad no_grad;
  const std::int64_t tokens = 150;
  const std::int64_t in = 200;
  const std::int64_t outs[] = {72, 40, 136};
  const std::int64_t ranks[] = {3, 7, 6};
  std::vector<LoraBranch> branches;
  for (std::size_t i = 0; i < 3; ++i) {
    branches.push_back({outs[i], random({ranks[i], in}, DType::f32, 0.3, 1).to(device),
                        random({outs[i], ranks[i]}, DType::f32, 0.3, 2).to(device), 0.5});
  }
  const LoraWeight weight(random({248, in}, dtype, 0.3, 3).to(device), branches, LoraLayout::bordered);
  const auto run = [&](std::span<const Tensor> da, std::span<const Tensor> db, bool add) {
    const Tensor x = bordered(random({tokens, in}, dtype, 1, 4), weight.rank(), device);
    const Tensor dy = bordered(random({tokens, 248}, dtype, 1, 5), weight.rank(), device);
    const Tensor h = lora_forward(x, weight, {}).h;
    (void)lora_backward(dy, x, h, weight, nullptr, da, db, add);
  };
  const auto filled = [&](const Shape& shape) { return Tensor::full(shape, 1, DType::f32, device); };
  std::vector<Tensor> da;
  std::vector<Tensor> db;
  for (std::size_t i = 0; i < 3; ++i) {
    da.push_back(filled({ranks[i], in}));
    db.push_back(filled({outs[i], ranks[i]}));
  }
  run(da, db, false);
  const std::vector<Tensor> some_a = {{}, filled(da[1].shape()), filled(da[2].shape())};
  const std::vector<Tensor> some_b = {filled(db[0].shape()), {}, filled(db[2].shape())};
  run(some_a, some_b, true);
  const auto one_more = [](const Tensor& t) {
    return add(t.to(Device::cpu()).to(DType::f64), Tensor::full({}, 1, DType::f64));
  };
  for (std::size_t i = 0; i < 3; ++i) {
    if (i != 0) {
      EXPECT_LE(relative_error(some_a[i], one_more(da[i])), 1e-5) << "dA of " << i;
    }
    if (i != 1) {
      EXPECT_LE(relative_error(some_b[i], one_more(db[i])), 1e-5) << "dB of " << i;
    }
  }
  const std::vector<Tensor> none(3);
  const std::vector<Tensor> again = {filled(db[0].shape()), filled(db[1].shape()), filled(db[2].shape())};
  run(none, again, true);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_LE(relative_error(again[i], one_more(db[i])), 1e-5) << "dB of " << i;
}

// dA and dB where g is known: odd extents, siblings of different widths and ranks, all of them wanted or some.
class OuterProducts : public LoraProducts {
 protected:
  struct Results {
    std::vector<Tensor> da, db;  // on the CPU, f64
  };
  enum class Wanted { both, a, b, mixed };

  // The case's inputs in memory with spare columns, where h is beside x and g, if there are any, beside dy.
  void make(const Case& c) {
    const Device device = test_device();
    std::int64_t out = 0;
    std::vector<LoraBranch> branches;
    for (const Sibling& s : c.siblings) {
      LoraBranch branch{s.out, {}, {}, s.scale};
      if (s.rank > 0) {
        branch.a = random({s.rank, c.in}, DType::f32, 0.3, 1).to(device);
        branch.b = random({s.out, s.rank}, DType::f32, 0.3, 2).to(device);
      }
      branches.push_back(branch);
      out += s.out;
    }
    weight_ = LoraWeight(random({out, c.in}, GetParam(), 0.3, 3).to(device), branches, LoraLayout::bordered);
    const std::int64_t rank = weight_.rank();
    x_ = random({c.tokens, c.in}, GetParam(), 1, 4);
    dy_ = random({c.tokens, out}, GetParam(), 1, 5);
    h_ = random({c.tokens, rank}, GetParam(), 1, 6);
    g_ = random({c.tokens, rank}, GetParam(), 1, 7);
    x_there_ = bordered(x_, rank, device);
    dy_there_ = bordered(dy_, c.bordered_dy ? rank : 0, device);
    h_there_ = x_there_.border_columns().slice(1, 0, rank);
    h_there_.copy_from(h_.to(device));
    g_there_ = c.bordered_dy ? dy_there_.border_columns().slice(1, 0, rank) : g_.to(device);
    if (c.bordered_dy) g_there_.copy_from(g_.to(device));
  }
  // Into memory that holds `held`; NaN where it is to be overwritten.
  Results run(Wanted wanted, bool add, double held = 0.5) const {
    Results results;
    for (std::size_t i = 0; i < weight_.blocks().size(); ++i) {
      const LoraWeight::Block& block = weight_.blocks()[i];
      const auto place = [&](bool is_wanted, const Shape& shape) {
        if (block.rank_size == 0 || !is_wanted) return Tensor();
        return Tensor::full(shape, add ? held : std::nan(""), DType::f32, test_device());
      };
      results.da.push_back(
          place(wanted != Wanted::b && (wanted != Wanted::mixed || i % 2 == 0), {block.rank_size, x_.size(1)}));
      results.db.push_back(
          place(wanted != Wanted::a && (wanted != Wanted::mixed || i % 2 == 1), {block.out_size, block.rank_size}));
    }
    outer_products(dy_there_, x_there_, h_there_, g_there_, weight_, results.da, results.db, add);
    for (std::vector<Tensor>* list : {&results.da, &results.db}) {
      for (Tensor& t : *list) {
        if (t.defined()) t = t.to(Device::cpu()).to(DType::f64);
      }
    }
    return results;
  }
  void expect_right(const Results& results, double held) const {
    const auto expect = [&](const Tensor& found, const Tensor& sum, double scale, const char* name, std::size_t i) {
      if (!found.defined()) return;
      const Tensor expected = add(mul(sum, scale), Tensor::full({}, held, DType::f64));
      EXPECT_LE(relative_error(found, expected), 2e-5) << name << " of " << i;
    };
    for (std::size_t i = 0; i < weight_.blocks().size(); ++i) {
      const LoraWeight::Block& block = weight_.blocks()[i];
      if (block.rank_size == 0) continue;
      expect(results.da[i], product(g_.slice(1, block.rank_begin, block.rank_size).transpose(0, 1), x_), 1, "dA", i);
      expect(results.db[i],
             product(dy_.slice(1, block.out_begin, block.out_size).transpose(0, 1),
                     h_.slice(1, block.rank_begin, block.rank_size)),
             block.scale, "dB", i);
    }
  }

  LoraWeight weight_;
  Tensor x_, dy_, h_, g_;  // on the CPU
  Tensor x_there_, dy_there_, h_there_, g_there_;
};
INSTANTIATE_TEST_SUITE_P(Dtypes, OuterProducts, ::testing::Values(DType::bf16, DType::f16, DType::f32),
                         [](const auto& param) { return std::string(to_string(param.param)); });

TEST_P(OuterProducts, MatchSumsInDouble) {
  const NoGrad no_grad;
  const Case cases[] = {
      {1000, 200, {{264, 16, 0.5}}},
      {1000, 200, {{200, 16, 2.0}, {72, 16, 1.0}, {136, 16, 1.5}}},
      {1000, 1160, {{72, 20, 2.0}, {200, 12, 0.25}}, false},
      {2000, 200, {{8, 3, 2.0}, {40, 0, 1.0}, {1032, 7, 0.25}, {24, 5, 1.0}}},
      {9, 8, {{8, 1, 1.0}}},
      {65, 3208, {{3208, 32, 0.5}}},
      {129, 4104, {{1544, 16, 0.5}, {1544, 32, 1.5}}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(::testing::Message() << c.tokens << " tokens, " << c.in << " in, " << c.siblings.size()
                                      << " siblings");
    make(c);
    for (const bool add : {false, true}) {
      for (const Wanted wanted : {Wanted::both, Wanted::a, Wanted::b, Wanted::mixed}) {
        SCOPED_TRACE(::testing::Message() << "wanted " << static_cast<int>(wanted) << (add ? ", added" : ""));
        expect_right(run(wanted, add), add ? 0.5 : 0);
      }
    }
  }
}

TEST_P(OuterProducts, AreTheSameBytesEachTime) {
  const NoGrad no_grad;
  make({1500, 456, {{264, 16, 2.0}, {200, 16, 1.0}}});
  const auto bytes = [&] {
    const Results results = run(Wanted::both, true);
    std::vector<double> all;
    for (const std::vector<Tensor>& list : {results.da, results.db}) {
      for (const Tensor& t : list) {
        const std::vector<double> values = t.to_vector<double>();
        all.insert(all.end(), values.begin(), values.end());
      }
    }
    return all;
  };
  const std::vector<double> first = bytes();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(bytes(), first);
}

TEST_P(OuterProducts, MatchSumsInDoubleInAnyPlan) {
  using cuda::OuterPlan;
  if (lora_outer_products.on(test_device().type) == nullptr || GetParam() == DType::f32)
    GTEST_SKIP() << "there is none";
  const NoGrad no_grad;
  const Case cases[] = {{1000, 328, {{456, 16, 0.5}}}, {700, 200, {{328, 32, 2.0}}}, {500, 264, {{200, 48, 1.0}}}};
  for (const Case& c : cases) {
    make(c);
    const int boxes[] = {static_cast<int>(c.siblings[0].out + OuterPlan::kBox - 1) / OuterPlan::kBox,
                         static_cast<int>(c.in + OuterPlan::kBox - 1) / OuterPlan::kBox};
    const int rows = static_cast<int>(c.tokens + OuterPlan::kRows - 1) / OuterPlan::kRows;
    const int widest = OuterPlan::kMaxBoxes * 16 / static_cast<int>(c.siblings[0].rank);
    for (const int cluster : {1, 3, 8}) {
      for (const int width : {1, 3, widest}) {
        SCOPED_TRACE(::testing::Message()
                     << c.siblings[0].rank << " ranks, clusters of " << cluster << ", " << width << " boxes across");
        const cuda::OuterTrial trial(cuda::divide_outer(rows, boxes, cluster, width));
        expect_right(run(Wanted::both, true), 0.5);
      }
    }
  }
}

// Small enough for tools that watch shared memory, yet blocks go round their rings. In clusters of eight some have one
// box of rows, or none.
TEST_P(OuterProducts, OfFewBoxesMatchSumsInDouble) {
  using cuda::OuterPlan;
  if (lora_outer_products.on(test_device().type) == nullptr || GetParam() == DType::f32)
    GTEST_SKIP() << "there is none";
  const NoGrad no_grad;
  const int largest = std::getenv("WICK_RACECHECK") == nullptr ? OuterPlan::kMaxCluster : 2;  // under_racecheck()
  const Case cases[] = {{840, 72, {{136, 16, 0.5}}}, {500, 72, {{200, 32, 2.0}}}, {400, 136, {{72, 48, 1.0}}}};
  for (const Case& c : cases) {
    make(c);
    const auto boxes_in = [](std::int64_t extent) {
      return static_cast<int>((extent + OuterPlan::kBox - 1) / OuterPlan::kBox);
    };
    const int boxes[] = {boxes_in(c.siblings[0].out), boxes_in(c.in)};
    const int rows = static_cast<int>(c.tokens + OuterPlan::kRows - 1) / OuterPlan::kRows;
    const int widest = OuterPlan::kMaxBoxes * 16 / static_cast<int>(c.siblings[0].rank);
    for (const int cluster : {1, 2, largest}) {
      for (const int width : {1, std::min(3, widest)}) {
        SCOPED_TRACE(::testing::Message()
                     << c.siblings[0].rank << " ranks, clusters of " << cluster << ", " << width << " boxes across");
        const cuda::OuterTrial trial(cuda::divide_outer(rows, boxes, cluster, width));
        expect_right(run(Wanted::both, true), 0.5);
      }
    }
  }
}

// The kernel that makes g and, in the same pass over dy, partial sums of dB, and those that add these up, with dA or
// without. Clusters go round the places of the factor, or have several boxes of rows.
TEST_P(OuterProducts, MadeWithGMatchSumsInDouble) {
  const Device device = test_device();
  LoraFactorGradients* const kernel = lora_factor_gradients.on(device.type);
  if (kernel == nullptr || GetParam() == DType::f32) GTEST_SKIP() << "there is none";
  const NoGrad no_grad;
  const double tolerance = GetParam() == DType::f16 ? 5e-4 : 4e-3;  // g is rounded once
  for (const Case& c : {Case{300, 72, {{4200, 16, 0.5}}}, Case{1100, 72, {{136, 20, 2.0}, {1000, 12, 0.25}}}}) {
    make(c);
    for (const bool with_a : {true, false}) {
      SCOPED_TRACE(::testing::Message() << c.tokens << " tokens" << (with_a ? ", with dA" : ""));
      std::vector<Tensor> da;
      std::vector<Tensor> db;
      for (const LoraWeight::Block& block : weight_.blocks()) {
        db.push_back(Tensor::full({block.out_size, block.rank_size}, 0.5, DType::f32, device));
        da.push_back(with_a ? Tensor::full({block.rank_size, c.in}, 0.5, DType::f32, device) : Tensor());
      }
      g_there_.copy_from(Tensor::full(g_there_.shape(), std::nan(""), GetParam(), device));
      const Declined reason = kernel(dy_there_, x_there_, h_there_, weight_, g_there_, da, db, true);
      if (reason != nullptr && std::string_view(reason).starts_with("no code")) GTEST_SKIP() << reason;
      ASSERT_EQ(reason, nullptr) << reason;
      g_ = g_there_.contiguous().to(Device::cpu());
      EXPECT_LE(relative_error(g_, product(dy_, weight_.scaled_b().contiguous().to(Device::cpu()))), tolerance) << "g";
      Results results;
      for (const Tensor& t : da) results.da.push_back(t.defined() ? t.to(Device::cpu()).to(DType::f64) : t);
      for (const Tensor& t : db) results.db.push_back(t.to(Device::cpu()).to(DType::f64));
      expect_right(results, 0.5);
    }
  }
}

// The library's products are no stand-in: on Hopper the kernel itself takes these.
TEST_P(OuterProducts, AreTakenByTheKernel) {
  const Device device = test_device();
  LoraOuterProducts* const kernel = lora_outer_products.on(device.type);
  if (kernel == nullptr || GetParam() == DType::f32) GTEST_SKIP() << "there is none";
  const NoGrad no_grad;
  for (const std::int64_t rank : {16, 32, 48}) {
    SCOPED_TRACE(::testing::Message() << "rank " << rank);
    make({300, 136, {{264, rank, 2.0}}});
    const std::vector<Tensor> da = {Tensor::empty({rank, 136}, DType::f32, device)};
    const std::vector<Tensor> db = {Tensor::empty({264, rank}, DType::f32, device)};
    const Declined reason = kernel(dy_there_, x_there_, h_there_, g_there_, weight_, da, db, false);
    if (reason != nullptr && std::string_view(reason).starts_with("no code")) GTEST_SKIP() << reason;
    ASSERT_EQ(reason, nullptr) << reason;
    expect_right({{da[0].to(Device::cpu()).to(DType::f64)}, {db[0].to(Device::cpu()).to(DType::f64)}}, 0);
  }
}

// The large products with the narrow ones inside: tiles that end within the matrices, one step of the sum and many, and
// more tiles than run at once, which take h or g from those that were first.
class ProductsWithNarrow : public OuterProducts {
 protected:
  // Only Hopper has it.
  bool kernel_there() {
    const Device device = test_device();
    LoraProduct* const kernel = lora_product.on(device.type);
    if (kernel == nullptr) return false;
    make({8, 8, {{8, 1, 1.0}}});
    const Declined reason =
        kernel(LoraWay::forward, x_there_, weight_, {}, h_there_, Tensor::empty({8, 8}, GetParam(), device));
    return reason == nullptr || !std::string_view(reason).starts_with("no code");
  }
  struct Result {
    Tensor narrow, wide;
  };
  Result run(LoraWay way, const Tensor& bias) const {
    const bool forward = way == LoraWay::forward;
    const Tensor& from = forward ? x_there_ : dy_there_;
    const Tensor& narrow = forward ? h_there_ : g_there_;
    const Device device = test_device();
    narrow.copy_from(Tensor::full(narrow.shape(), std::nan(""), GetParam(), device));
    const Tensor wide =
        Tensor::full({from.size(0), forward ? dy_.size(1) : x_.size(1)}, std::nan(""), GetParam(), device);
    const Declined reason = lora_product.on(device.type)(way, from, weight_, bias, narrow, wide);
    EXPECT_EQ(reason, nullptr) << reason;
    return {narrow.contiguous().to(Device::cpu()), wide.to(Device::cpu())};
  }
  // The products of what make() made.
  void check(LoraWay way, const Tensor& bias = {}) const {
    const bool forward = way == LoraWay::forward;
    SCOPED_TRACE(::testing::Message() << x_.size(0) << " tokens, " << x_.size(1) << " in, " << dy_.size(1) << " out, "
                                      << (forward ? "forward" : "backward"));
    const double tolerance = GetParam() == DType::f16 ? 5e-4 : 4e-3;  // results rounded once
    const auto here = [](const Tensor& t) { return t.contiguous().to(Device::cpu()); };
    const Tensor a = here(weight_.a());
    const Tensor b = here(weight_.scaled_b());
    const Tensor w = here(weight_.core());
    const Tensor& from = forward ? x_ : dy_;
    const Result found = run(way, bias.defined() ? bias.to(test_device()) : bias);
    EXPECT_LE(relative_error(found.narrow.to(DType::f64), product(from, forward ? a.transpose(0, 1) : b)), tolerance);
    Tensor wide =
        add(product(from, forward ? w.transpose(0, 1) : w), product(found.narrow, forward ? b.transpose(0, 1) : a));
    if (bias.defined()) wide = add(wide, bias.to(DType::f64));
    EXPECT_LE(relative_error(found.wide.to(DType::f64), wide), tolerance);
  }
};
INSTANTIATE_TEST_SUITE_P(Dtypes, ProductsWithNarrow, ::testing::Values(DType::bf16, DType::f16),
                         [](const auto& param) { return std::string(to_string(param.param)); });

TEST_P(ProductsWithNarrow, MatchSumsInDouble) {
  if (!kernel_there()) GTEST_SKIP() << "there is none";
  const NoGrad no_grad;
  const Case cases[] = {
      {1, 8, {{8, 1, 1.0}}},
      {100, 72, {{40, 3, 2.0}, {16, 0, 1.0}, {24, 20, 0.25}}},
      {300, 264, {{1160, 16, 0.5}}},
      {300, 1160, {{264, 32, 0.5}}, false},
      {1000, 328, {{456, 16, 2.0}, {136, 16, 1.0}, {136, 16, 1.5}}},
      {2100, 72, {{2600, 16, 1.0}}},
      {2100, 2600, {{72, 48, 1.0}}},
      {4000, 456, {{904, 8, 1.0}}},
  };
  for (const Case& c : cases) {
    make(c);
    check(LoraWay::forward);
    check(LoraWay::forward, random({dy_.size(1)}, GetParam(), 1, 8));
    check(LoraWay::backward);
  }
}

// Tiles of 192, 224 and 256 columns and ranks of one, two and three slices: on 132 multiprocessors most have two tiles.
TEST_P(ProductsWithNarrow, OfFlatMatricesMatchSumsInDouble) {
  if (!kernel_there()) GTEST_SKIP() << "there is none";
  const NoGrad no_grad;
  for (const auto& [columns, rank] : {std::pair<std::int64_t, std::int64_t>{34000, 16}, {51000, 32}, {60000, 48}}) {
    make({70, 72, {{columns, rank, 0.5}}});
    check(LoraWay::forward, random({columns}, GetParam(), 1, 8));
    make({70, columns, {{72, rank, 0.5}}});
    check(LoraWay::backward);
  }
}

TEST_P(ProductsWithNarrow, AreTheSameBytesEachTime) {
  if (!kernel_there()) GTEST_SKIP() << "there is none";
  const NoGrad no_grad;
  make({2500, 1032, {{2056, 32, 2.0}, {520, 16, 1.0}}});
  for (const LoraWay way : {LoraWay::forward, LoraWay::backward}) {
    const std::vector<double> first = run(way, {}).wide.to(DType::f64).to_vector<double>();
    for (int i = 0; i < 5; ++i) EXPECT_EQ(run(way, {}).wide.to(DType::f64).to_vector<double>(), first);
  }
}

}  // namespace
}  // namespace wick::testing
