// Tensors and shapes: views against a list of indices, copies against plain loops, and what is refused.
#include "wick/tensor.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <random>

#include "core/dispatch.h"
#include "ops/op.h"
#include "wick/error.h"

namespace wick {
namespace {

Tensor counting(const Shape& shape) {
  std::vector<std::int64_t> values(static_cast<std::size_t>(numel(shape)));
  std::iota(values.begin(), values.end(), std::int64_t{0});
  return Tensor::from(values, shape);
}

std::vector<std::int64_t> list(const Tensor& t) { return t.to_vector<std::int64_t>(); }
using List = std::vector<std::int64_t>;

void expect_error(const std::function<void()>& call, const std::string& message,
                  ErrorCode code = ErrorCode::invalid_argument) {
  try {
    call();
    ADD_FAILURE() << "no error, expected: " << message;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_EQ(std::string(error.what()), message);
  }
}

void expect_refused(const std::function<void()>& call) {
  try {
    call();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument) << error.what();
  }
}

// ---------------------------------------------------------------------------------------------------------------------

TEST(Dims, HoldsUpToSix) {
  Dims d{2, 3};
  d.push_back(4);
  d.insert(0, 1);
  EXPECT_EQ(d, (Dims{1, 2, 3, 4}));
  EXPECT_EQ(d[-1], 4);
  d.erase(-2);
  EXPECT_EQ(d, (Dims{1, 2, 4}));
  d.erase(0);
  EXPECT_EQ(d, (Dims{2, 4}));
  EXPECT_NE(d, (Dims{2, 4, 1}));
  EXPECT_EQ(to_string(d), "[2, 4]");
  EXPECT_EQ(to_string(Dims{}), "[]");
  EXPECT_EQ((Dims{1, 2, 3, 4, 5, 6}).rank(), 6);
  expect_error([] { (void)Dims{1, 2, 3, 4, 5, 6, 7}; }, "a tensor has at most 6 dimensions");
  expect_error([&] { d.insert(3, 1); }, "cannot insert dimension 3 of 2");
  expect_error([&] { (void)d[2]; }, "dimension 2 of a tensor with 2 dimensions");
  expect_error([&] { (void)d[-3]; }, "dimension -3 of a tensor with 2 dimensions");
}

TEST(Dims, CountsElements) {
  EXPECT_EQ(numel({}), 1);
  EXPECT_EQ(numel({3, 0, 5}), 0);
  EXPECT_EQ(numel({std::int64_t{1} << 31, std::int64_t{1} << 31}), std::int64_t{1} << 62);
  expect_error([] { (void)numel({2, -1}); }, "shape [2, -1] has a negative extent");
  expect_refused([] { (void)numel({std::int64_t{1} << 31, std::int64_t{1} << 31, 2}); });
  expect_refused([] { (void)numel({std::int64_t{1} << 62, std::int64_t{1} << 62}); });
  expect_refused([] { (void)numel({0, std::int64_t{1} << 40, std::int64_t{1} << 40}); });  // strides would overflow
}

TEST(Dims, Broadcasts) {
  EXPECT_EQ(broadcast({2, 1, 3}, {4, 1}), (Shape{2, 4, 3}));
  EXPECT_EQ(broadcast({}, {2, 0}), (Shape{2, 0}));
  EXPECT_EQ(broadcast({1}, {0}), (Shape{0}));
  expect_error([] { (void)broadcast({2, 3}, {2}); }, "shapes [2, 3] and [2] do not broadcast");
  expect_error([] { (void)broadcast({0}, {3}); }, "shapes [0] and [3] do not broadcast");
}

// ---------------------------------------------------------------------------------------------------------------------
// A view is right when it names the same elements, in the same order, as a list of indices that is rearranged element
// by element. Tensors count from 0, so a value is its own place in memory.

struct Reference {
  Shape shape;
  List values;

  // value(digits) of every element, in row-major order.
  static Reference gather(const Shape& shape, const std::function<std::int64_t(const List&)>& value) {
    Reference r{shape, {}};
    const std::int64_t count = numel(shape);
    List digits(static_cast<std::size_t>(shape.rank()), 0);
    for (std::int64_t i = 0; i < count; ++i) {
      r.values.push_back(value(digits));
      for (int d = shape.rank() - 1; d >= 0; --d) {
        if (++digits[static_cast<std::size_t>(d)] < shape[d]) break;
        digits[static_cast<std::size_t>(d)] = 0;
      }
    }
    return r;
  }

  std::int64_t at(const List& digits) const {
    std::int64_t index = 0;
    for (int d = 0; d < shape.rank(); ++d) index = index * shape[d] + digits[static_cast<std::size_t>(d)];
    return values[static_cast<std::size_t>(index)];
  }

  // Whether some strides name these places: then a view of this shape exists.
  bool affine() const {
    if (values.empty()) return true;
    List strides;
    for (int d = 0; d < shape.rank(); ++d) {
      List digits(static_cast<std::size_t>(shape.rank()), 0);
      if (shape[d] > 1) digits[static_cast<std::size_t>(d)] = 1;
      strides.push_back(at(digits) - values[0]);
    }
    return gather(shape, [&](const List& digits) {
             return values[0] + std::inner_product(digits.begin(), digits.end(), strides.begin(), std::int64_t{0});
           }).values == values;
  }

  bool dense() const {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (values[i] != values[0] + static_cast<std::int64_t>(i)) return false;
    }
    return true;
  }
};

void expect_same(const Tensor& t, const Reference& r) {
  ASSERT_EQ(t.shape(), r.shape);
  ASSERT_EQ(t.numel(), static_cast<std::int64_t>(r.values.size()));
  ASSERT_EQ(list(t), r.values) << to_string(t.shape()) << " strides " << to_string(t.strides());
  ASSERT_EQ(t.is_contiguous(), r.dense()) << to_string(t.shape()) << " strides " << to_string(t.strides());
}

class ViewChains : public ::testing::TestWithParam<unsigned> {
 protected:
  std::int64_t draw(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(generator_);
  }
  // A shape of `count` elements.
  Shape factors(std::int64_t count) {
    Shape shape;
    while (shape.rank() < 4 && (count > 1 || draw(0, 2) == 0)) {
      List divisors;
      for (std::int64_t d = 1; d <= count; ++d) {
        if (count % d == 0) divisors.push_back(d);
      }
      const std::int64_t next =
          divisors[static_cast<std::size_t>(draw(0, static_cast<std::int64_t>(divisors.size()) - 1))];
      shape.insert(static_cast<int>(draw(0, shape.rank())), next);
      count /= next;
    }
    if (count > 1) shape.push_back(count);
    return shape;
  }
  void step(Tensor& t, Reference& r);

  std::mt19937 generator_{GetParam()};
};

void ViewChains::step(Tensor& t, Reference& r) {
  const Reference before = r;
  const int dim = t.rank() == 0 ? 0 : static_cast<int>(draw(0, t.rank() - 1));
  const auto d = static_cast<std::size_t>(dim);
  switch (draw(0, 5)) {
    case 0: {  // slice
      if (t.rank() == 0) return;
      const std::int64_t extent = t.size(dim);
      const std::int64_t start = draw(0, extent);
      const std::int64_t length =
          extent == 0 || draw(0, 15) > 0 ? draw(std::min<std::int64_t>(1, extent - start), extent - start) : 0;
      t = draw(0, 1) != 0 ? t.slice(dim, start, length) : t.slice(dim - t.rank(), start, length);
      Shape shape = before.shape;
      shape[dim] = length;
      r = Reference::gather(shape, [&](List digits) {
        digits[d] += start;
        return before.at(digits);
      });
      return;
    }
    case 1: {  // select
      if (t.rank() == 0 || t.size(dim) == 0) return;
      const std::int64_t index = draw(0, t.size(dim) - 1);
      t = t.select(dim - (draw(0, 1) != 0 ? t.rank() : 0), index);
      Shape shape = before.shape;
      shape.erase(dim);
      r = Reference::gather(shape, [&](List digits) {
        digits.insert(digits.begin() + dim, index);
        return before.at(digits);
      });
      return;
    }
    case 2: {  // permute
      std::vector<int> order(static_cast<std::size_t>(t.rank()));
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), generator_);
      t = t.permute(order);
      Shape shape;
      for (const int from : order) shape.push_back(before.shape[from]);
      r = Reference::gather(shape, [&](const List& digits) {
        List old(digits.size());
        for (std::size_t i = 0; i < digits.size(); ++i) old[static_cast<std::size_t>(order[i])] = digits[i];
        return before.at(old);
      });
      return;
    }
    case 3: {  // transpose
      if (t.rank() < 2) return;
      const int other = static_cast<int>(draw(0, t.rank() - 1));
      t = t.transpose(dim, other - t.rank());
      Shape shape = before.shape;
      std::swap(shape[dim], shape[other]);
      r = Reference::gather(shape, [&](List digits) {
        std::swap(digits[d], digits[static_cast<std::size_t>(other)]);
        return before.at(digits);
      });
      return;
    }
    case 4: {  // expand
      Shape shape = before.shape;
      for (int i = 0; i < shape.rank(); ++i) {
        if (shape[i] == 1 && numel(shape) < 200) shape[i] = draw(0, 7) == 0 ? 0 : draw(1, 3);
      }
      const std::int64_t extra = shape.rank() < 4 && numel(shape) < 200 ? draw(0, 1) : 0;
      if (extra != 0) shape.insert(0, draw(1, 3));
      t = t.expand(shape);
      r = Reference::gather(shape, [&](const List& digits) {
        List old(digits.begin() + static_cast<std::ptrdiff_t>(extra), digits.end());
        for (std::size_t i = 0; i < old.size(); ++i) {
          if (before.shape[static_cast<int>(i)] == 1) old[i] = 0;
        }
        return before.at(old);
      });
      return;
    }
    default: {  // view, where there is one
      Shape shape = t.numel() == 0 ? Shape{3, 0} : factors(t.numel());
      r.shape = shape;
      const bool exists = r.affine();
      if (t.numel() > 0 && shape.rank() > 0 && draw(0, 1) != 0) shape[static_cast<int>(draw(0, shape.rank() - 1))] = -1;
      if (exists) {
        t = t.view(shape);
      } else {
        expect_refused([&] { (void)t.view(shape); });
        ASSERT_EQ(list(reshape(t, shape)), r.values);  // the op copies instead
        r = before;
      }
    }
  }
}

TEST_P(ViewChains, NameTheElementsThatAListOfIndicesNames) {
  for (int chain = 0; chain < 60; ++chain) {
    Shape shape;
    for (std::int64_t i = draw(1, 4); i > 0; --i) shape.push_back(draw(1, 6));
    Tensor t = counting(shape);
    Reference r{shape, list(t)};
    for (int i = 0; i < 12; ++i) {
      SCOPED_TRACE(to_string(t.shape()) + " strides " + to_string(t.strides()));
      ASSERT_NO_THROW(step(t, r));
      expect_same(t, r);
      if (HasFatalFailure()) return;
      if (t.rank() > 0) {
        const Tensor rows = as_rows(t);
        ASSERT_EQ(rows.shape(), (Shape{row_count(t), t.size(-1)}));
        ASSERT_EQ(list(rows), r.values);
        ASSERT_TRUE(rows.size(1) <= 1 || rows.stride(1) == 1);
        const Tensor heads = as_rows_or_heads(t);
        ASSERT_EQ(list(heads), r.values);
        ASSERT_EQ(heads.size(-1), t.size(-1));
        ASSERT_TRUE(heads.size(-1) <= 1 || heads.stride(-1) == 1);
        ASSERT_TRUE(heads.rank() == 2 || (heads.rank() == 3 && heads.storage() == t.storage()));
      }
      if (t.numel() == 0) break;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, ViewChains, ::testing::Range(1U, 13U));

// ---------------------------------------------------------------------------------------------------------------------

TEST(View, MergesDenseDimensionsWhateverTheExtents) {
  const Tensor t = counting({2, 5, 4}).slice(1, 0, 3);  // [2, 3, 4], dense within a row of 20
  const Tensor v = t.view({2, 2, 6});                   // 12 = 3 x 4 = 2 x 6, though 6 is no multiple of 4
  EXPECT_EQ(list(v), list(t));
  EXPECT_EQ(v.storage(), t.storage());
}

TEST(View, Refuses) {
  const Tensor t = counting({2, 3, 4});
  EXPECT_EQ(t.view({-1, 4}).shape(), (Shape{6, 4}));
  EXPECT_EQ(counting({0, 3}).view({-1, 3}).shape(), (Shape{0, 3}));
  expect_error([&] { (void)t.view({5, 5}); }, "view([5, 5]) of a tensor of shape [2, 3, 4]");
  expect_error([&] { (void)t.view({-1, 5}); }, "view([-1, 5]) of a tensor of shape [2, 3, 4]");
  expect_error([&] { (void)t.view({-1, -1}); }, "view([-1, -1]) has two unknown extents");
  expect_error(
      [&] {
        (void)t.transpose(0, 1).view({6, 4});
      },
      "view([6, 4]) of a tensor of shape [3, 2, 4] and strides [4, 12, 1] needs a copy");
  const std::int64_t huge = std::int64_t{1} << 40;
  expect_refused([&] { (void)t.view({huge, huge, -1}); });
  expect_refused([&] { (void)t.view({-1, -24}); });
  expect_refused([&] { (void)t.view({-2, -12}); });
}

TEST(View, WritesThrough) {
  const Tensor t = counting({4, 4});
  t.slice(1, 1, 2).transpose(0, 1).select(0, 1).copy_from(Tensor::from(List{-1, -2, -3, -4}, {4}));
  EXPECT_EQ(list(t), (List{0, 1, -1, 3, 4, 5, -2, 7, 8, 9, -3, 11, 12, 13, -4, 15}));
}

TEST(Slice, Refuses) {
  const Tensor t = counting({2, 3});
  EXPECT_EQ(t.slice(1, 3, 0).shape(), (Shape{2, 0}));
  EXPECT_EQ(t.slice(-2, 1, 1).shape(), (Shape{1, 3}));
  expect_error([&] { (void)t.slice(1, 2, 2); }, "slice [2, 2 + 2) of dimension 1 of a tensor of shape [2, 3]");
  expect_refused([&] { (void)t.slice(1, -1, 1); });
  expect_refused([&] { (void)t.slice(1, 0, -1); });
  expect_refused([&] { (void)t.slice(1, 1, std::numeric_limits<std::int64_t>::max()); });
  expect_refused([&] { (void)t.slice(2, 0, 1); });
  expect_refused([&] { (void)t.select(0, 2); });
  expect_refused([&] { (void)t.select(0, -1); });
}

TEST(Permute, Refuses) {
  const Tensor t = counting({2, 3});
  const auto permute = [&](std::vector<int> order) { (void)t.permute(order); };
  expect_error([&] { permute({0}); }, "permute() with 1 numbers of a tensor of shape [2, 3]");
  expect_error([&] { permute({1, -1}); }, "permute() names dimension 1 twice");
  expect_error([&] { permute({0, 2}); }, "dimension 2 of a tensor with 2 dimensions");
  expect_error([&] { (void)t.transpose(0, 2); }, "dimension 2 of a tensor with 2 dimensions");
}

TEST(Expand, Refuses) {
  const Tensor t = counting({2, 1});
  EXPECT_EQ(list(t.expand({3, 2, 2})), (List{0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1}));
  EXPECT_EQ(t.expand({2, 0}).numel(), 0);
  expect_error([&] { (void)t.expand({3, 1}); }, "expand([3, 1]) of a tensor of shape [2, 1]");
  expect_error([&] { (void)t.expand({1}); }, "expand([1]) of a tensor of shape [2, 1]");
  expect_refused([&] { (void)t.expand({2, -1}); });
}

TEST(AsStrided, StaysInTheStorage) {
  const Tensor t = counting({12});
  EXPECT_EQ(list(t.as_strided({3, 2}, {4, 2})), (List{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(list(t.slice(0, 1, 11).as_strided({2, 4}, {4, 1}).slice(1, 0, 3)), (List{1, 2, 3, 5, 6, 7}));
}

TEST(AsStrided, RefusesWhatLeavesTheStorage) {
  const Tensor t = counting({12});
  expect_error([&] { (void)t.as_strided({3, 4}, {5, 1}); }, "as_strided([3, 4], [5, 1]) leaves the storage");
  expect_refused([&] { (void)t.slice(0, 1, 11).as_strided({12}, {1}); });
  expect_refused([&] { (void)t.as_strided({2}, {-1}); });
  expect_refused([&] { (void)t.as_strided({2, 2}, {1}); });
  expect_refused([&] { (void)t.as_strided({2}, {1, 1}); });
  // Bounds that wrap around.
  expect_refused([&] { (void)t.as_strided({3}, {std::int64_t{1} << 62}); });
  expect_refused([&] { (void)t.as_strided({2}, {std::int64_t{1} << 61}); });
  expect_refused([&] { (void)t.as_strided({5}, {std::int64_t{1} << 62}); });
  expect_refused([&] { (void)t.as_strided({3, 3}, {std::int64_t{1} << 62, std::int64_t{1} << 62}); });
}

TEST(ViewOf, StaysInTheStorage) {
  const auto storage = Storage::allocate(16, Device::cpu());
  EXPECT_EQ(Tensor::view_of(storage, 8, {2}, DType::f32).numel(), 2);
  EXPECT_EQ(Tensor::view_of(storage, 16, {0}, DType::f32).numel(), 0);
  expect_error([&] { (void)Tensor::view_of(storage, 8, {3}, DType::f32); },
               "a f32 [3] tensor at byte 8 does not fit in 16 bytes");
  expect_error([&] { (void)Tensor::view_of(storage, 2, {1}, DType::f32); }, "byte 2 is not aligned for f32");
  expect_refused([&] { (void)Tensor::view_of(storage, 20, {0}, DType::f32); });
  expect_refused([&] { (void)Tensor::view_of(storage, 0, {std::int64_t{1} << 61}, DType::f64); });
}

TEST(Storage, LeavesForeignMemoryToItsOwner) {
  static float memory[4] = {1, 2, 3, 4};
  const std::size_t before = memory_stats(Device::cpu()).current;
  {
    const auto storage = Storage::wrap(reinterpret_cast<std::byte*>(memory), sizeof memory, nullptr, false);
    const Tensor t = Tensor::view_of(storage, 0, {2, 2}, DType::f32);
    EXPECT_EQ(t.to_vector<float>(), (std::vector<float>{1, 2, 3, 4}));
    expect_error([&] { t.copy_from(Tensor::zeros({2, 2}, DType::f32)); }, "copy into a read-only tensor");
  }
  EXPECT_EQ(memory_stats(Device::cpu()).current, before);
}

TEST(Storage, CountsWhatIsInUse) {
  const std::size_t before = memory_stats(Device::cpu()).current;
  Tensor t = Tensor::empty({1000}, DType::f32);
  EXPECT_EQ(memory_stats(Device::cpu()).current, before + 4000);
  const Tensor view = t.slice(0, 10, 10);
  t = {};
  EXPECT_EQ(memory_stats(Device::cpu()).current, before + 4000);  // the view keeps it
  EXPECT_GE(memory_stats(Device::cpu()).peak, before + 4000);
}

TEST(Bordered, HasSpareColumnsBesideTheWholeMatrixOnly) {
  const Tensor t = Tensor::bordered({3, 4}, 2, DType::i64);
  EXPECT_EQ(t.shape(), (Shape{3, 4}));
  EXPECT_EQ(t.strides(), (Strides{6, 1}));
  const Tensor whole = t.as_strided({3, 6}, {6, 1});
  whole.copy_from(counting({3, 6}));
  EXPECT_EQ(list(t.border_columns()), (List{4, 5, 10, 11, 16, 17}));
  EXPECT_FALSE(t.slice(1, 0, 3).border_columns().defined());
  EXPECT_FALSE(t.slice(1, 1, 3).border_columns().defined());
  EXPECT_FALSE(t.slice(0, 0, 2).border_columns().defined());
  EXPECT_FALSE(t.transpose(0, 1).border_columns().defined());
  EXPECT_FALSE(t.contiguous().border_columns().defined());
  EXPECT_FALSE(whole.border_columns().defined());
  EXPECT_FALSE(Tensor::bordered({3, 4}, 0, DType::i64).border_columns().defined());
  EXPECT_FALSE(Tensor::bordered({0, 4}, 2, DType::i64).border_columns().defined());
  EXPECT_FALSE(Tensor().border_columns().defined());
  const Tensor deep = Tensor::bordered({2, 3, 4}, 2, DType::i64);
  EXPECT_EQ(deep.border_columns().shape(), (Shape{6, 2}));
  EXPECT_EQ(Tensor::bordered({1, 4}, 2, DType::i64).border_columns().shape(), (Shape{1, 2}));
  EXPECT_TRUE(t.storage()->claim_border());
  EXPECT_FALSE(t.storage()->claim_border());
  EXPECT_FALSE(counting({2}).storage()->claim_border());
}

// ---------------------------------------------------------------------------------------------------------------------

constexpr DType kAll[] = {DType::f32, DType::bf16, DType::f16, DType::f64, DType::i32, DType::i64};

// As the header of copies says: through float, or double where one of the two is f64 or an integer. Written out anew.
template <class To, class From>
To plain(From value) {
  if constexpr (std::is_same_v<To, From>) return value;
  if constexpr (std::is_same_v<From, bf16> || std::is_same_v<From, f16>) {
    return static_cast<To>(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, bf16> || std::is_same_v<To, f16>) {
    return To(static_cast<float>(value));
  } else {
    return static_cast<To>(value);
  }
}

template <class T>
bool same(T a, T b) {
  if constexpr (std::is_arithmetic_v<T>)
    return a == b;
  else
    return a.bits == b.bits;
}

TEST(Copies, EveryPairOfTypesInEveryLayout) {
  const Shape shape = {129, 3, 131};  // more than one piece for threads
  for (const DType from : kAll) {
    for (const DType to : kAll) {
      SCOPED_TRACE(std::string(to_string(from)) + " to " + std::string(to_string(to)));
      visit_any(from, [&](auto f) {
        visit_any(to, [&](auto g) {
          using From = decltype(f);
          using To = decltype(g);
          std::vector<From> values;
          std::mt19937 generator(5);
          std::uniform_real_distribution<float> uniform(-1000, 1000);
          for (std::int64_t i = 0; i < numel(shape); ++i) values.push_back(plain<From>(uniform(generator)));
          std::vector<To> expected;
          for (const From& value : values) expected.push_back(plain<To>(value));
          const auto check = [&](const Tensor& t, const char* what) {
            ASSERT_EQ(t.dtype(), to);
            const std::vector<To> found = t.template to_vector<To>();
            ASSERT_EQ(found.size(), expected.size());
            for (std::size_t i = 0; i < found.size(); ++i) {
              if (!same(found[i], expected[i])) FAIL() << what << ": element " << i << " differs";
            }
          };
          const Tensor dense = Tensor::from(values, shape);
          const Tensor wide = Tensor::zeros({129, 3, 140}, from);
          const Tensor strided = wide.slice(2, 4, 131);
          strided.copy_from(dense);
          const Tensor turned = Tensor::zeros({131, 3, 129}, from).transpose(0, 2);
          turned.copy_from(dense);
          check(dense.to(to), "dense");
          check(strided.to(to), "strided");
          check(turned.to(to), "transposed");
          const Tensor target = Tensor::zeros({131, 129, 3}, to).permute(std::vector<int>{1, 2, 0});
          target.copy_from(strided);
          check(target, "strided to permuted");
          target.copy_from(turned);
          check(target.clone(), "transposed to permuted");
        });
      });
    }
  }
}

TEST(Copies, ScalarsAndEmptyOnes) {
  EXPECT_EQ(Tensor::full({}, 2.5, DType::f32).to(DType::f64).item(), 2.5);
  EXPECT_EQ(Tensor::empty({0, 3}, DType::f32).to(DType::bf16).shape(), (Shape{0, 3}));
  EXPECT_EQ(Tensor::empty({3, 0}, DType::f32).transpose(0, 1).clone().shape(), (Shape{0, 3}));
  const Tensor t = counting({2, 2});
  EXPECT_EQ(t.contiguous().storage(), t.storage());
  EXPECT_EQ(t.to(DType::i64).storage(), t.storage());
  EXPECT_NE(t.clone().storage(), t.storage());
  EXPECT_EQ(Tensor::full({1, 1}, 7, DType::f16).item(), 7);
}

TEST(Copies, Refuse) {
  const Tensor t = counting({2, 2});
  expect_error([&] { t.copy_from(counting({4})); }, "copy of shape [4] into shape [2, 2]");
  expect_error([&] { (void)t.data<float>(); }, "a i64 tensor was read as f32");
  expect_error([&] { (void)t.item(); }, "item() of a tensor of shape [2, 2]");
  expect_error(
      [] {
        (void)Tensor::from(std::vector<float>{1, 2, 3}, {2, 2});
      },
      "3 values of f32 do not make a tensor of shape [2, 2]");
  expect_refused([] { (void)Tensor::empty({std::int64_t{1} << 62}, DType::f32); });
  expect_refused([] { (void)Tensor::empty({-1}, DType::f32); });
}

TEST(Undefined, EveryUseIsAnError) {
  const Tensor none;
  EXPECT_FALSE(none.defined());
  EXPECT_EQ(describe(none), "undefined");
  EXPECT_EQ(describe(counting({2, 3})), "i64 [2, 3]");
  expect_error([&] { (void)none.data<float>(); }, "an undefined tensor has no data");
  expect_refused([&] { (void)none.device(); });
  expect_refused([&] { (void)none.item(); });
  expect_refused([&] { (void)none.clone(); });
  expect_refused([&] { (void)none.to(DType::f64); });
  expect_refused([&] { (void)none.to_vector<float>(); });
  expect_refused([&] { none.copy_from(Tensor::zeros({}, DType::f32)); });
  expect_refused([&] { Tensor::zeros({}, DType::f32).copy_from(none); });
  expect_refused([&] { (void)none.view({0}); });
  expect_refused([&] { (void)none.expand({2}); });
  expect_refused([&] { (void)none.as_strided({1}, {1}); });
  expect_refused([&] { (void)none.slice(0, 0, 0); });
}

// A row that repeats with stride 0 below another dimension is no matrix of one row stride.
TEST(AsRows, CopiesWhatHasNoSingleRowStride) {
  const Tensor big = counting({100});
  const Tensor t = big.view({25, 4}).slice(0, 0, 2).view({2, 1, 4}).expand({2, 3, 4});
  EXPECT_EQ(list(as_rows(t)), (List{0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7}));
}

}  // namespace
}  // namespace wick
