// What happens when a device has no memory left: an error with the numbers, and what comes next is as if nothing had
// been. These tests take nearly all memory of the device for a moment, so nothing else should use it meanwhile.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <regex>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/arena.h"
#include "backend/cuda/gemm.h"
#include "backend/cuda/runtime.h"
#include "op_matrix.h"
#include "train/train_step.h"
#include "wick/adapter.h"
#include "wick/error.h"
#include "wick/model.h"
#include "wick/train.h"

namespace wick::testing {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kGiB = std::size_t{1} << 30;
constexpr std::int64_t kGiBOfFloats = std::int64_t{1} << 28;

// Takes what is free on a device, but for `leave` bytes, until it is destroyed.
class Hog {
 public:
  Hog(Device device, std::size_t leave) {
    backend(device).trim(device);
    constexpr std::size_t kPage = 2 * kMiB;
    std::size_t most = backend(device).memory(device).total;
    for (;;) {
      const std::size_t available = backend(device).memory(device).free;
      const std::size_t bytes = std::min(most, available - std::min(available, leave)) / kPage * kPage;
      if (bytes == 0) return;
      void* piece = nullptr;
      if (cudaMalloc(&piece, bytes) == cudaSuccess) {
        pieces_.push_back(piece);
      } else {
        (void)cudaGetLastError();
        most = bytes / 2;
      }
    }
  }
  ~Hog() {
    for (void* piece : pieces_) (void)cudaFree(piece);
  }
  Hog(const Hog&) = delete;
  Hog& operator=(const Hog&) = delete;

 private:
  std::vector<void*> pieces_;
};

// `run` must throw Error(out_of_memory) with the numbers; its message.
template <class F>
std::string expect_out_of_memory(F&& run) {
  try {
    run();
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(to_string(error.code()), to_string(ErrorCode::out_of_memory)) << message;
    static const std::regex numbers(
        R"(cuda:\d.*\d\.\d\d GiB in use here, \d+\.\d\d GiB reserved, \d+\.\d\d of \d+\.\d\d GiB free)");
    EXPECT_TRUE(std::regex_search(message, numbers)) << message;
    return message;
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

class OutOfMemoryCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    if (device.type != DeviceType::cuda) GTEST_SKIP() << "WICK_TEST_DEVICE names no GPU";
    if (backend(device).memory(device).free < 6 * kGiB) GTEST_SKIP() << "less than 6 GiB are free";
  }

  const Device device = test_device();
};

TEST_F(OutOfMemoryCuda, AnAllocationFailsWithTheNumbersAndTheNextOneWorks) {
  {
    const Hog hog(device, 256 * kMiB);
    const std::string message = expect_out_of_memory([&] { (void)Tensor::empty({kGiBOfFloats}, DType::f32, device); });
    EXPECT_NE(message.find("cannot give 1.000 GiB"), std::string::npos) << message;
    std::smatch found;
    ASSERT_TRUE(std::regex_search(message, found, std::regex(R"((\d+\.\d\d) of (\d+\.\d\d) GiB free)"))) << message;
    EXPECT_LE(std::stod(found[1]), 0.5) << message;
    EXPECT_GT(std::stod(found[1]), 0) << message;  // what the failed one had found is free again
    EXPECT_NEAR(std::stod(found[2]), static_cast<double>(backend(device).memory(device).total) / kGiB, 0.01) << message;
    const Tensor small = Tensor::full({1 << 20}, 3, DType::f32, device);
    EXPECT_EQ(small.to_vector<float>().back(), 3);
  }
  const Tensor large = Tensor::full({kGiBOfFloats}, 2, DType::f32, device);
  EXPECT_EQ(large.slice(0, kGiBOfFloats - 1, 1).to_vector<float>()[0], 2);
}

TEST_F(OutOfMemoryCuda, TrimGivesCachedMemoryBack) {
  (void)Tensor::empty({kGiBOfFloats}, DType::f32, device);
  backend(device).synchronize(device);
  const std::size_t reserved = cuda::device_arena(device.index).stats().reserved;
  const std::size_t before = backend(device).memory(device).free;
  backend(device).trim(device);
  const std::size_t after = backend(device).memory(device).free;
  EXPECT_GE(reserved - cuda::device_arena(device.index).stats().reserved, kGiB - 16 * kMiB);
  EXPECT_GE(after, before + kGiB - 128 * kMiB) << "another process may have taken some";
  EXPECT_EQ(Tensor::full({kGiBOfFloats}, 1, DType::f32, device).slice(0, 0, 1).to_vector<float>()[0], 1);
}

// What the driver takes for itself, as for graphs and libraries, may lie cached in the arena.
TEST_F(OutOfMemoryCuda, WhatTheDriverWantsComesOutOfTheCache) {
  cuda::Arena& arena = cuda::device_arena(device.index);
  void* taken = nullptr;
  const auto take = [&] { return cudaMalloc(&taken, 512 * kMiB); };
  Tensor tensor = Tensor::empty({kGiBOfFloats}, DType::f32, device);
  const Hog hog(device, 128 * kMiB);
  const std::string message = expect_out_of_memory([&] { arena.retry_after_trim("what it wants", take); });
  EXPECT_NE(message.find("[cuda] what it wants: "), std::string::npos) << message;
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
  tensor = {};  // cached
  arena.retry_after_trim("what it wants", take);
  EXPECT_EQ(cudaFree(taken), cudaSuccess);
}

TEST_F(OutOfMemoryCuda, AnArenaOfTheDriversAllocationsSaysTheSame) {
  cuda::Arena separate(device.index, cuda::Arena::MakeSpace(), [this] {
    backend(device).synchronize(device);
    return true;
  });
  const Hog hog(device, 256 * kMiB);
  const std::string message = expect_out_of_memory([&] { (void)separate.allocate(kGiB); });
  EXPECT_NE(message.find("cannot give 1.000 GiB"), std::string::npos) << message;
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
  cuda::Arena::Block* block = separate.allocate(16 * kMiB);
  EXPECT_EQ(separate.stats().allocated, 16 * kMiB);
  cuda::Arena::release(block);
  EXPECT_EQ(separate.stats().allocated, 0U);
  EXPECT_EQ(separate.stats().reserved, 0U);
}

// The first product of a process takes the library's workspace: run by itself, this is that product.
TEST_F(OutOfMemoryCuda, AProductWithoutAWorkspaceFailsAndTheNextOneIsRight) {
  const auto libraries = backend(device).libraries();
  if (!libraries.front().there || !cuda::libraries_wanted()) GTEST_SKIP() << "without cuBLASLt";
  constexpr std::int64_t kSize = 512;
  std::vector<float> values(kSize * kSize);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i * 7919 % 1009) / 1009 - 0.5F;
  const Tensor host = Tensor::from(values, {kSize, kSize});
  const Tensor a = host.to(device);
  const Tensor c = Tensor::zeros({kSize, kSize}, DType::f32, device);
  const auto product = [&] { cuda::gemm(a, a, c, 1, 0, {}); };
  try {
    const Hog hog(device, 32 * kMiB);
    product();  // where another test has taken the workspace before
  } catch (const Error& error) {
    const std::string message = expect_out_of_memory([&] { throw error; });
    EXPECT_NE(message.find("cannot give 0.06"), std::string::npos) << message;
  }
  product();
  const std::vector<float> found = c.to_vector<float>();
  for (const std::size_t at : {std::size_t{0}, std::size_t{12345}, values.size() - 1}) {
    double wanted = 0;
    for (std::size_t k = 0; k < kSize; ++k) {
      wanted += static_cast<double>(values[at / kSize * kSize + k]) * values[k * kSize + at % kSize];
    }
    EXPECT_NEAR(found[at], wanted, 1e-3) << at;
  }
}

TEST_F(OutOfMemoryCuda, AFailedRecordingIsGivenUpAndTheNextOneWorks) {
  Backend& cuda = backend(device);
  const Tensor x = Tensor::zeros({1024}, DType::f32, device);
  const Tensor y = Tensor::zeros({1024}, DType::f32, device);
  const auto large = [&] {
    x.fill(1);
    const Tensor made = Tensor::empty({kGiBOfFloats}, DType::f32, device);
    made.fill(5);
    x.copy_from(made.slice(0, kGiBOfFloats - 1024, 1024));
  };
  large();  // kernels are loaded
  cuda.add_into(y, x);
  x.fill(0);
  EXPECT_EQ(x.to_vector<float>()[0], 0);
  {
    const Hog hog(device, 256 * kMiB);
    expect_out_of_memory([&] { (void)cuda.record(device, large); });
    EXPECT_FALSE(cuda::capturing(device.index));
    // The driver has none to give either, and nothing may wait for the device, so that the arena could be trimmed.
    expect_out_of_memory([&] {
      (void)cuda.record(device, [&] {
        void* taken = nullptr;
        cuda::device_arena(device.index).retry_after_trim("memory", [&] { return cudaMalloc(&taken, kGiB); });
      });
    });
    EXPECT_FALSE(cuda::capturing(device.index));
    EXPECT_EQ(x.to_vector<float>()[0], 0);  // nothing of it has run
    x.fill(2);
    const auto small = cuda.record(device, [&] { cuda.add_into(x, y); });
    small->replay();
    small->replay();
    EXPECT_EQ(y.to_vector<float>()[1023], 4);
  }
  const auto recording = cuda.record(device, large);
  recording->replay();
  EXPECT_EQ(x.to_vector<float>()[0], 5);
}

// A model whose steps take some 100 KiB for each token.
ModelConfig model_of_four_layers() {
  ModelConfig c;
  c.hidden_size = 1024;
  c.intermediate_size = 4096;
  c.num_hidden_layers = 4;
  c.num_attention_heads = 16;
  c.num_key_value_heads = 8;
  c.head_dim = 64;
  c.vocab_size = 4096;
  c.tie_word_embeddings = true;
  c.sliding_window.assign(4, 0);
  c.rope.theta = 10000;
  return c;
}

constexpr std::size_t kRows = 8;      // of a batch
constexpr std::size_t kShort = 128;   // tokens of a row: a batch takes about 100 MiB
constexpr std::size_t kLong = 1024;   // about 900 MiB
constexpr std::size_t kLittle = 256;  // MiB: too little for a batch of long rows
constexpr std::size_t kLeast = 32;    // for short ones too

// Batches of short rows and of long ones by turns.
Dataset short_and_long_rows() {
  std::vector<Example> examples(2 * kRows);
  for (std::size_t i = 0; i < examples.size(); ++i) {
    for (std::size_t t = 0; t < (i < kRows ? kShort : kLong); ++t) {
      examples[i].ids.push_back(static_cast<std::int32_t>((31 * t + 17 * i + t * t % 101) % 4096));
    }
    examples[i].labels = examples[i].ids;
  }
  return Dataset::from_examples(std::move(examples));
}

class Training {
 public:
  struct Result {
    double loss = 0;
    double grad_norm = 0;
    std::vector<float> gradients;
    std::vector<float> values;  // of the adapter, behind the step
  };

  Training(Device device, bool record)
      : model_(Decoder::random(model_of_four_layers(), {.dtype = DType::bf16, .device = device}, 5)),
        data_(short_and_long_rows()) {
    LoraConfig lora;
    lora.rank = 8;
    lora.target_modules = ModuleSelector("all-linear");
    adapter_ = std::make_shared<const Adapter>(init_adapter(lora, model_.linear_modules(), 1), model_.linear_modules(),
                                               device);
    model_.attach(adapter_, LoraLayout::bordered);
    TrainOptions options;
    options.batches.batch_size = kRows;
    options.batches.shuffle = false;
    task_ = make_lm_task(model_, data_, nullptr, options);
    const Tensor exp_avg = Tensor::zeros({adapter_->parameter_count()}, DType::f32, device);
    const Tensor exp_avg_sq = Tensor::zeros({adapter_->parameter_count()}, DType::f32, device);
    step_ = make_train_step(*task_, *adapter_, exp_avg, exp_avg_sq, {.record = record});
  }

  void next() {
    batch_ = task_->next();
    number_ += 1;
  }
  // A step on the batch that next() chose; again, where it has failed before.
  Result step() {
    step_->begin(batch_.trained_tokens);
    const TrainStep::Result updated = step_->update(batch_, static_cast<std::uint32_t>(number_), 1e-3, number_);
    Result result;
    result.gradients = adapter_->gradients().to_vector<float>();  // as they were before they were clipped
    result.loss = updated.loss;
    result.grad_norm = updated.grad_norm;
    result.values = adapter_->values().to_vector<float>();
    return result;
  }

 private:
  Decoder model_;
  Dataset data_;
  std::shared_ptr<const Adapter> adapter_;
  std::unique_ptr<TrainTask> task_;
  std::unique_ptr<TrainStep> step_;
  Batch batch_;
  std::int64_t number_ = 0;
};

bool same_bytes(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void expect_same(const Training::Result& found, const Training::Result& wanted, int step) {
  EXPECT_EQ(found.loss, wanted.loss) << "step " << step;
  EXPECT_EQ(found.grad_norm, wanted.grad_norm) << "step " << step;
  EXPECT_TRUE(same_bytes(found.gradients, wanted.gradients)) << "step " << step;
  EXPECT_TRUE(same_bytes(found.values, wanted.values)) << "step " << step;
}

constexpr int kSteps = 10;

// Steps that nothing goes wrong with. They also load the kernels and make the plans, for which little memory is left
// later.
std::vector<Training::Result> undisturbed(Device device, bool record) {
  Training training(device, record);
  std::vector<Training::Result> results;
  for (int i = 0; i < kSteps; ++i) {
    training.next();
    results.push_back(training.step());
  }
  return results;
}

TEST_F(OutOfMemoryCuda, AStepLaunchByLaunchFailsAndTheNextOneIsRight) {
  const std::vector<Training::Result> wanted = undisturbed(device, false);
  Training training(device, false);
  for (int i = 0; i < kSteps; ++i) {
    training.next();
    if (i % 2 == 1) {
      const Hog hog(device, kLittle * kMiB);
      expect_out_of_memory([&] { (void)training.step(); });
    }
    expect_same(training.step(), wanted[static_cast<std::size_t>(i)], i);
  }
}

TEST_F(OutOfMemoryCuda, ARecordedStepFailsAndTheNextOneIsRight) {
  const std::vector<Training::Result> wanted = undisturbed(device, true);
  Training training(device, true);
  // Short rows and long ones by turns: two steps launch by launch, two that are recorded, then replays.
  const auto without_memory = [&](int i) {
    if (i == 1) {  // launch by launch
      const Hog hog(device, kLittle * kMiB);
      expect_out_of_memory([&] { (void)training.step(); });
    } else if (i == 2) {  // a recording beside that of the update, then alone
      const Hog hog(device, kLeast * kMiB);
      expect_out_of_memory([&] { (void)training.step(); });
    } else if (i == 3) {  // a recording beside that of the short rows, which is given up for it
      const Hog hog(device, kLittle * kMiB);
      expect_out_of_memory([&] { (void)training.step(); });
    }
  };
  for (int i = 0; i < kSteps; ++i) {
    training.next();
    without_memory(i);
    if (i < kSteps - 2) {
      expect_same(training.step(), wanted[static_cast<std::size_t>(i)], i);
    } else {  // what is recorded has its memory
      const Hog hog(device, kLittle * kMiB);
      expect_same(training.step(), wanted[static_cast<std::size_t>(i)], i);
    }
  }
}

}  // namespace
}  // namespace wick::testing
