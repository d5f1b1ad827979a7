// The tape itself: what is recorded, where gradients are gathered, and that gradients which share memory stay apart.
#include "wick/autograd.h"

#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "expect_error.h"
#include "ops/op.h"

namespace wick {
namespace {

using test::expect_refused;

using Floats = std::vector<float>;

Parameter parameter(const std::string& name, const Floats& values) {
  return {name, Tensor::from(values, {static_cast<std::int64_t>(values.size())})};
}
Floats floats(const Tensor& t) { return t.to_vector<float>(); }

TEST(Tape, AParameterUsedTwice) {
  const Parameter p = parameter("p", {2, 3});
  Tape tape;
  tape.backward(sum(mul(mul(p.value(), p.value()), p.value())));  // p³
  EXPECT_EQ(floats(p.grad()), (Floats{12, 27}));
  EXPECT_TRUE(p.received_gradient());
  EXPECT_EQ(tape.size(), 0U);
}

TEST(Tape, ABranchThatDoesNotReachTheLoss) {
  const Parameter p = parameter("p", {2});
  const Parameter unused = parameter("unused", {5});
  Tape tape;
  const Tensor loss = mul(p.value(), 3.0);
  const Tensor other = mul(mul(unused.value(), p.value()), 7.0);
  tape.backward(loss);
  EXPECT_EQ(floats(p.grad()), (Floats{3}));
  EXPECT_EQ(floats(unused.grad()), (Floats{0}));
  EXPECT_FALSE(unused.received_gradient());
  const Parameter all[] = {p, unused};
  expect_refused("trainable parameter unused received no gradient", [&] { require_gradients(all); });
  EXPECT_NO_THROW(require_gradients(std::span(all, 1)));
}

TEST(Tape, RecordsOnlyWhatLeadsToAGradient) {
  const Parameter p = parameter("p", {2});
  const Tensor constant = Tensor::full({1}, 4.0, DType::f32);
  EXPECT_FALSE(mul(p.value(), 2.0).needs_grad());  // no tape
  Tape tape;
  EXPECT_FALSE(mul(constant, 2.0).needs_grad());
  EXPECT_EQ(tape.size(), 0U);
  {
    const NoGrad off;
    EXPECT_EQ(Tape::active(), nullptr);
    EXPECT_FALSE(mul(p.value(), 2.0).needs_grad());
  }
  EXPECT_EQ(Tape::active(), &tape);
  EXPECT_FALSE(mul(p.value().detach(), 2.0).needs_grad());
  EXPECT_EQ(tape.size(), 0U);
  EXPECT_TRUE(mul(p.value(), constant).needs_grad());
  EXPECT_EQ(tape.size(), 1U);
  expect_refused("no trainable parameter leads to the loss", [&] { tape.backward(constant); });
}

TEST(Tape, TheInnermostRecords) {
  const Parameter p = parameter("p", {3});
  Tape outer;
  const Tensor loss = mul(p.value(), 2.0);
  {
    Tape inner;
    EXPECT_EQ(Tape::active(), &inner);
    inner.backward(mul(p.value(), p.value()));
    EXPECT_EQ(outer.size(), 1U);
  }
  EXPECT_EQ(Tape::active(), &outer);
  EXPECT_EQ(floats(p.grad()), (Floats{6}));
  outer.backward(loss);
  EXPECT_EQ(floats(p.grad()), (Floats{8}));
}

TEST(Tape, BelongsToItsThread) {
  const Parameter p = parameter("p", {3});
  Tape tape;
  bool recorded = true;
  std::thread([&] { recorded = mul(p.value(), 2.0).needs_grad(); }).join();
  EXPECT_FALSE(recorded);
  EXPECT_EQ(tape.size(), 0U);
}

TEST(Tape, AccumulatesUntilZeroed) {
  const Parameter p = parameter("p", {1, 2});
  for (int i = 1; i <= 2; ++i) {
    Tape tape;
    tape.backward(sum(mul(p.value(), p.value())));
    EXPECT_EQ(floats(p.grad()), (Floats{2.0F * static_cast<float>(i), 4.0F * static_cast<float>(i)}));
  }
  p.zero_grad();
  EXPECT_EQ(floats(p.grad()), (Floats{0, 0}));
  EXPECT_FALSE(p.received_gradient());
}

TEST(Tape, GathersInASliceOfAFlatBuffer) {
  const Tensor flat = Tensor::full({5}, 9.0, DType::f32);
  const Parameter p("p", Tensor::from(Floats{1, 2}, {2}), flat.slice(0, 1, 2));
  p.zero_grad();
  Tape tape;
  tape.backward(sum(mul(p.value(), 3.0)));
  EXPECT_EQ(floats(flat), (Floats{9, 3, 3, 9, 9}));
}

TEST(Tape, TakesSeeds) {
  const Parameter p = parameter("p", {1, 2});
  {
    Tape tape;
    const Tensor y = mul(p.value(), 10.0);
    expect_refused("the loss has shape [2], not one element", [&] { tape.backward(y); });
    expect_refused("a seed of shape [3] for an output of shape [2]",
                   [&] { tape.backward(y, Tensor::zeros({3}, DType::f32)); });
  }
  {
    Tape tape;
    const Tensor seed = Tensor::from(Floats{1, -1}, {2});
    const Tensor a = mul(p.value(), 10.0);
    const Tensor b = mul(p.value(), 100.0);
    const Tensor c = mul(p.value(), 1000.0);
    const Tensor outputs[] = {a, b, c, a};
    const Tensor seeds[] = {seed, Tensor(), seed, seed};
    tape.backward(outputs, seeds);
    EXPECT_EQ(floats(p.grad()), (Floats{1020, -1020}));
    EXPECT_EQ(floats(seed), (Floats{1, -1}));  // no seed is written to
  }
  Tape tape;
  const Tensor outputs[] = {mul(p.value(), 1.0), mul(p.value(), 2.0)};
  const Tensor seeds[] = {Tensor::zeros({2}, DType::f32)};
  expect_refused("1 seeds for 2 outputs", [&] { tape.backward(outputs, seeds); });
}

TEST(Tape, ConvertsASeedToItsOutputsType) {
  const Parameter p("p", Tensor::from(std::vector<double>{3}, {1}));
  Tape tape;
  tape.backward(mul(p.value(), p.value()), Tensor::full({1}, 0.5, DType::f32));
  EXPECT_EQ(p.grad().to_vector<double>(), (std::vector<double>{3}));
}

TEST(Tape, ALeafAsTheLoss) {
  const Parameter p = parameter("p", {7});
  Tape tape;
  tape.backward(p.value());
  EXPECT_EQ(floats(p.grad()), (Floats{1}));
}

TEST(Tape, ASecondBackwardIsAnError) {
  const Parameter p = parameter("p", {2});
  Tape tape;
  const Tensor loss = mul(p.value(), p.value());
  tape.backward(loss);
  expect_refused("its recording is used up", [&] { tape.backward(loss); });
  EXPECT_EQ(floats(p.grad()), (Floats{4}));
  Tape other;
  expect_refused("was not recorded here", [&] { other.backward(loss); });
}

TEST(Tape, ForgetsEverythingWhenABackwardThrows) {
  const Parameter p = parameter("p", {2});
  Tape tape;
  const Tensor x = mul(p.value(), 2.0);
  Tensor y = x.clone();
  record("broken", {x}, {&y}, [](std::span<const Tensor>, const std::vector<bool>&) -> std::vector<Tensor> {
    fail(ErrorCode::invalid_argument, "broken backward");
  });
  const Tensor loss = mul(y, 1.0);
  expect_refused("broken backward", [&] { tape.backward(loss); });
  EXPECT_EQ(tape.size(), 0U);
  EXPECT_EQ(Tape::active(), &tape);
  EXPECT_EQ(floats(p.grad()), (Floats{0}));
  tape.backward(mul(p.value(), 5.0));  // and goes on as new
  EXPECT_EQ(floats(p.grad()), (Floats{5}));
}

TEST(Tape, ChecksWhatABackwardReturns) {
  const Parameter p = parameter("p", {2});
  const auto with = [&](std::vector<Tensor> grads) {
    Tape tape;
    Tensor y = p.value().detach().clone();
    record("odd", {p.value()}, {&y}, [grads](std::span<const Tensor>, const std::vector<bool>&) { return grads; });
    tape.backward(y);
  };
  expect_refused("[odd] backward returned 0 gradients for 1 inputs", [&] { with({}); });
  expect_refused("[odd] gradient of shape [2] for p of shape [1]", [&] { with({Tensor::zeros({2}, DType::f32)}); });
  with({Tensor()});
  EXPECT_FALSE(p.received_gradient());
}

TEST(Tape, FreesWhatNodesSavedAsItGoes) {
  const Parameter p("p", Tensor::full({1000}, 1.0, DType::f32));
  const std::size_t before = memory_stats(Device::cpu()).current;
  {
    Tape tape;
    Tensor y = p.value();
    for (int i = 0; i < 10; ++i) y = exp(mul(y, 0.1));
    tape.backward(sum(y));
    y = {};
    EXPECT_EQ(memory_stats(Device::cpu()).current, before);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// A backward may hand one tensor to several inputs, or views of one buffer. Each input's further gradients are its own.

TEST(SharedGradients, OneTensorToTwoInputs) {
  const Parameter a = parameter("a", {1, 1});
  const Parameter b = parameter("b", {1, 1});
  Tape tape;
  const Tensor x = mul(a.value(), 1.0);
  const Tensor y = mul(b.value(), 1.0);
  const Tensor early = mul(x, 10.0);  // adds to x's gradient after the shared one has arrived
  const Tensor both = add(x, y);      // hands dy itself to x and to y
  const Tensor again = add(both, mul(x, 100.0));
  tape.backward(sum(add(again, early)));
  EXPECT_EQ(floats(a.grad()), (Floats{111, 111}));
  EXPECT_EQ(floats(b.grad()), (Floats{1, 1}));
}

TEST(SharedGradients, OneInputTwice) {
  const Parameter p = parameter("p", {1, 2});
  Tape tape;
  const Tensor x = mul(p.value(), 1.0);
  const Tensor y = add(add(x, x), x);
  tape.backward(y, Tensor::from(Floats{1, 2}, {2}));
  EXPECT_EQ(floats(p.grad()), (Floats{3, 6}));
}

TEST(SharedGradients, PartsOfOneBuffer) {
  const Parameter p = parameter("p", {1, 2, 3, 4});
  Tape tape;
  const Tensor x = mul(p.value(), 1.0);
  const std::int64_t sizes[] = {2, 2};
  const std::vector<Tensor> parts = split(x, 0, sizes);
  const Tensor late = mul(parts[0], 5.0);  // parts[0] gets another gradient: it no longer lies beside parts[1]'s
  const Tensor joined = concat(std::vector<Tensor>{parts[0], parts[1]}, 0);  // hands views of dy to the parts
  const Tensor total = add(joined, mul(x, 100.0));
  const Tensor outputs[] = {total, late};
  const Tensor seed = Tensor::from(Floats{1, 2, 3, 4}, {4});
  const Tensor seeds[] = {seed, Tensor::from(Floats{1, 1}, {2})};
  tape.backward(outputs, seeds);
  EXPECT_EQ(floats(p.grad()), (Floats{106, 207, 303, 404}));
  EXPECT_EQ(floats(seed), (Floats{1, 2, 3, 4}));
}

TEST(SharedGradients, PartsHandedOnAsOne) {
  const Parameter p = parameter("p", {1, 2, 3, 4});
  Tape tape;
  const Tensor x = mul(p.value(), 1.0);
  const std::int64_t sizes[] = {1, 3};
  const std::vector<Tensor> parts = split(x, 0, sizes);
  const Tensor joined = concat(parts, 0);
  const Tensor seed = Tensor::from(Floats{1, 2, 3, 4}, {4});
  const Tensor more = add(mul(x, 10.0), joined);
  tape.backward(more, seed);
  EXPECT_EQ(floats(p.grad()), (Floats{11, 22, 33, 44}));
  EXPECT_EQ(floats(seed), (Floats{1, 2, 3, 4}));
}

// The gradient of a sum is one value with stride 0: what receives it must not take it for a matrix of rows.
TEST(SharedGradients, ExpandedOnes) {
  const Tensor weight = Tensor::from(std::vector<double>{1, 2, 3, 4, 5, 6, 7, 8}, {2, 4}).to(DType::f32);
  const Tensor gain = Tensor::full({4}, 1.0, DType::f32);
  const Tensor seeds = Tensor::from(Floats{1, -2, 3, -4, 5, -6, 7, -8, 9, -10, 11, -12, 13, -14, 15, -16}, {16});
  struct Case {
    const char* name;
    std::function<Tensor(const Tensor&)> run;
  };
  const LoraBranch branch{2, Tensor::full({1, 4}, 0.5, DType::f32), Tensor::full({2, 1}, 0.25, DType::f32), 2.0};
  const LoraWeight lora(weight, std::span(&branch, 1));
  const Case cases[] = {
      {"linear",
       [&](const Tensor& x) {
         return sum(linear(reshape(x, {6, 4}), weight), 0);
       }},
      {"lora_linear",
       [&](const Tensor& x) {
         return sum(lora_linear(reshape(x, {6, 4}), lora, {}, std::span(&branch, 1)), 0);
       }},
      {"rms_norm",
       [&](const Tensor& x) {
         return sum(rms_norm(reshape(x, {2, 3, 4}), gain, 1e-6), 1);
       }},
      {"layer_norm",
       [&](const Tensor& x) {
         return sum(layer_norm(reshape(x, {2, 3, 4}), gain, {}, 1e-6), 1);
       }},
      {"softmax",
       [&](const Tensor& x) {
         return sum(softmax(reshape(x, {2, 3, 4})), 1);
       }},
      {"gelu",
       [&](const Tensor& x) {
         return sum(gelu(reshape(x, {2, 3, 4}), GeluKind::exact), 1);
       }},
      {"swiglu",
       [&](const Tensor& x) {
         const Tensor y = reshape(x, {2, 3, 4});
         return sum(swiglu(y, y), 1);
       }},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    Floats found[2];
    for (const bool fused : {false, true}) {
      set_fused(fused);
      Floats start;
      for (int i = 0; i < 24; ++i) start.push_back(static_cast<float>(i % 7) * 0.5F - 1);
      const Parameter p = parameter("p", start);
      Tape tape;
      const Tensor y = c.run(p.value());
      // A slice of a longer tensor: wrong strides would stay inside its memory.
      tape.backward(y, seeds.slice(0, 0, y.numel()).view(y.shape()));
      found[fused ? 1 : 0] = floats(p.grad());
    }
    set_fused(true);
    for (std::size_t i = 0; i < found[0].size(); ++i) EXPECT_NEAR(found[1][i], found[0][i], 1e-4) << i;
  }
}

TEST(SharedGradients, ExpandedInputs) {
  const Tensor row = Tensor::from(Floats{1, 2, 3, 4, 50, 60, 70, 80, 90, 100, 110, 120}, {3, 4});
  const Tensor weight = Tensor::from(Floats{1, 0, 0, 0, 1, 1, 1, 1}, {2, 4});
  EXPECT_EQ(floats(linear(row.slice(0, 0, 1).expand({3, 4}), weight)), (Floats{1, 10, 1, 10, 1, 10}));
}

// y = factor * x whose gradient is written where the place of x says; `made` receives it.
Tensor scaled_in_place(const Tensor& x, double factor, Tensor* made = nullptr) {
  Tensor y = mul(x.detach(), factor);
  record("scaled", {x}, {&y},
         [factor, made, place = GradPlace(x)](std::span<const Tensor> dy, const std::vector<bool>&) {
           const Tensor dx = place.empty();
           dx.copy_from(mul(dy[0], factor));
           if (made != nullptr) *made = dx;
           return std::vector<Tensor>{dx};
         });
  return y;
}

// x again; `arrived` receives its gradient.
Tensor probed(const Tensor& x, Tensor* arrived) {
  Tensor y = x.detach();
  record("probed", {x}, {&y}, [arrived](std::span<const Tensor> dy, const std::vector<bool>&) {
    *arrived = dy[0];
    return std::vector<Tensor>{dy[0]};
  });
  return y;
}

const std::vector<std::int64_t> kPieces = {1, 2};
Parameter matrix() { return {"p", Tensor::from(Floats{1, 2, 3, 4, 5, 6}, {2, 3})}; }

TEST(JointGradients, PiecesAreWrittenIntoTheWhole) {
  const Parameter p = matrix();
  Tape tape;
  Tensor whole, first, second;
  const std::vector<Tensor> pieces = split(probed(p.value(), &whole), 1, kPieces);
  const Tensor a = scaled_in_place(pieces[0], 10, &first);
  const Tensor b = scaled_in_place(reshape(pieces[1], {2, 1, 2}), 100, &second);
  tape.backward(add(sum(a), sum(b)));
  EXPECT_EQ(floats(p.grad()), (Floats{10, 100, 100, 10, 100, 100}));
  EXPECT_EQ(first.storage(), whole.storage());
  EXPECT_EQ(second.storage(), whole.storage());
}

TEST(JointGradients, APieceWithoutAGradient) {
  const Parameter p = matrix();
  Tape tape;
  Tensor whole, made;
  const std::vector<Tensor> pieces = split(probed(p.value(), &whole), 1, kPieces);
  tape.backward(sum(scaled_in_place(pieces[1], 100, &made)));
  EXPECT_EQ(floats(p.grad()), (Floats{0, 100, 100, 0, 100, 100}));
  EXPECT_EQ(made.storage(), whole.storage());
}

TEST(JointGradients, APieceReadTwice) {
  const Parameter p = matrix();
  Tape tape;
  const std::vector<Tensor> pieces = split(mul(p.value(), 1.0), 1, kPieces);
  const Tensor both = add(sum(scaled_in_place(pieces[1], 10)), sum(scaled_in_place(pieces[1], 100)));
  tape.backward(add(both, sum(mul(pieces[0], 7.0))));
  EXPECT_EQ(floats(p.grad()), (Floats{7, 110, 110, 7, 110, 110}));
}

// The memory of a piece stands in another gradient too, when the piece's own has to be added up elsewhere.
TEST(JointGradients, APieceWhoseMemoryIsShared) {
  const Parameter p = matrix();
  const Parameter other("other", Tensor::full({2, 2}, 1.0, DType::f32));
  Tape tape;
  const std::vector<Tensor> pieces = split(mul(p.value(), 1.0), 1, kPieces);
  const Tensor twin = mul(other.value(), 1.0);
  const Tensor later = scaled_in_place(pieces[1], 1);
  Tensor y = add(pieces[1].detach(), twin.detach());
  record("shared", {pieces[1], twin}, {&y},
         [place = GradPlace(pieces[1])](std::span<const Tensor> dy, const std::vector<bool>&) {
           const Tensor dx = place.empty();
           dx.copy_from(dy[0]);
           return std::vector<Tensor>{dx, dx};
         });
  tape.backward(add(sum(later), sum(y)));
  EXPECT_EQ(floats(p.grad()), (Floats{0, 2, 2, 0, 2, 2}));
  EXPECT_EQ(floats(other.grad()), (Floats{1, 1, 1, 1}));
}

TEST(JointGradients, OfPiecesOfPieces) {
  const Parameter p = matrix();
  Tape tape;
  Tensor whole, made;
  const std::vector<Tensor> pieces = split(probed(p.value(), &whole), 1, kPieces);
  const std::vector<Tensor> halves = split(pieces[1], 1, std::vector<std::int64_t>{1, 1});
  const Tensor a = add(sum(scaled_in_place(halves[0], 10)), sum(scaled_in_place(halves[1], 100, &made)));
  tape.backward(add(a, sum(scaled_in_place(pieces[0], 1))));
  EXPECT_EQ(floats(p.grad()), (Floats{1, 10, 100, 1, 10, 100}));
  EXPECT_EQ(made.storage(), whole.storage());
}

// SwiGLU's dy is written where dup will be, and both of its gradients into one buffer.
TEST(JointGradients, OfSwiglu) {
  const std::int64_t halves[] = {2, 2};
  const Floats values = {1, -2, 3, 4, 0.5, 6, -7, 8};
  const auto gradients = [&](bool in_place, Tensor* whole, Tensor* dy) {
    const Parameter p("p", Tensor::from(values, {2, 4}));
    Tape tape;
    const std::vector<Tensor> parts = split(probed(p.value(), whole), 1, halves);
    const Tensor y = swiglu(parts[0], parts[1]);
    tape.backward(sum(in_place ? scaled_in_place(y, 3, dy) : mul(y, 3.0)));
    return floats(p.grad());
  };
  Tensor whole, dy;
  const Floats found = gradients(true, &whole, &dy);
  EXPECT_EQ(dy.storage(), whole.storage());
  EXPECT_EQ(dy.raw(), whole.slice(1, 2, 2).raw());
  Tensor other;
  EXPECT_EQ(found, gradients(false, &other, nullptr));
}

TEST(JointGradients, OfSwigluReadTwice) {
  const std::int64_t halves[] = {2, 2};
  const Parameter p("p", Tensor::from(Floats{1, -2, 3, 4, 0.5, 6, -7, 8}, {2, 4}));
  const auto gradients = [&](const std::function<Tensor(const Tensor&)>& loss) {
    p.zero_grad();
    Tape tape;
    const std::vector<Tensor> parts = split(mul(p.value(), 1.0), 1, halves);
    tape.backward(loss(swiglu(parts[0], parts[1])));
    return floats(p.grad());
  };
  EXPECT_EQ(gradients([](const Tensor& y) { return add(sum(scaled_in_place(y, 1)), sum(scaled_in_place(y, 2))); }),
            gradients([](const Tensor& y) { return sum(mul(y, 3.0)); }));
}

TEST(Parameter, RefusesWhatCannotGather) {
  const Tensor value = Tensor::zeros({2, 3}, DType::f32);
  const auto make = [](const Tensor& v, const Tensor& grad = {}) { (void)Parameter("p", v, grad); };
  expect_refused("parameter p must be contiguous and floating, is f32 [3, 2]", [&] { make(value.transpose(0, 1)); });
  expect_refused("parameter p must be contiguous and floating, is i32 [2]",
                 [&] { make(Tensor::zeros({2}, DType::i32)); });
  expect_refused("parameter p must be contiguous and floating, is undefined", [&] { make(Tensor()); });
  expect_refused("its gradient buffer f32 [3, 2]", [&] { make(value, Tensor::zeros({3, 2}, DType::f32)); });
  expect_refused("its gradient buffer i32 [2, 3]", [&] { make(value, Tensor::zeros({2, 3}, DType::i32)); });
  expect_refused("expected its shape, contiguous", [&] {
    make(value, Tensor::zeros({3, 2}, DType::f32).transpose(0, 1));
  });
}

}  // namespace
}  // namespace wick
