#include "ops/lora_linear/lora_refresh.h"
#include "ops/op.h"

namespace wick {
namespace {

constexpr std::int64_t kRankMultiple = 16;  // what tensor cores and SIMD tiles want of an inner extent

void check_branch(const LoraBranch& branch, std::int64_t in_features) {
  const bool both = branch.a.defined() && branch.b.defined();
  if (branch.a.defined() != branch.b.defined() ||
      (both && (branch.a.rank() != 2 || branch.b.rank() != 2 || branch.a.size(1) != in_features ||
                branch.b.size(0) != branch.out_features || branch.a.size(0) != branch.b.size(1)))) {
    fail(ErrorCode::invalid_argument, "[lora_linear] an adapter with a {} and b {} for a projection [{}, {}]",
         describe(branch.a), describe(branch.b), branch.out_features, in_features);
  }
}

}  // namespace

LoraWeight::LoraWeight(const Tensor& weight, std::span<const LoraBranch> branches, LoraLayout layout)
    : layout_(layout) {
  if (!weight.defined() || weight.rank() != 2 || !is_floating(weight.dtype())) {
    fail(ErrorCode::invalid_argument, "[lora_linear] the weight must be a floating matrix, is {}", describe(weight));
  }
  const std::int64_t k = weight.size(1);
  std::int64_t n = 0;
  for (const LoraBranch& branch : branches) {
    check_branch(branch, k);
    const std::int64_t r = branch.a.defined() ? branch.a.size(0) : 0;
    blocks_.push_back({n, branch.out_features, rank_, r, branch.scale});
    n += branch.out_features;
    rank_ += r;
  }
  if (n != weight.size(0)) {
    fail(ErrorCode::invalid_argument, "[lora_linear] siblings have {} rows together, the weight has {}", n,
         weight.size(0));
  }
  if (layout == LoraLayout::bordered && rank_ > 0) {
    rank_ = (rank_ + kRankMultiple - 1) / kRankMultiple * kRankMultiple;
    const std::int64_t row = Tensor::bordered_row(k, rank_, weight.dtype(), weight.device().type);
    bordered_ = Tensor::zeros({n + rank_, row}, weight.dtype(), weight.device()).slice(1, 0, k + rank_);
    core_ = bordered_.slice(0, 0, n).slice(1, 0, k);
    core_.copy_from(weight.detach());
    a_ = bordered_.slice(0, n, rank_).slice(1, 0, k);
    scaled_b_ = bordered_.slice(0, 0, n).slice(1, k, rank_);
  } else {
    core_ = weight.stride(1) == 1 ? weight.detach() : weight.detach().contiguous();
    if (rank_ > 0) {
      a_ = Tensor::zeros({rank_, k}, weight.dtype(), weight.device());
      scaled_b_ = Tensor::zeros({n, rank_}, weight.dtype(), weight.device());
    }
  }
  refresh(branches);
}

std::vector<LoraWeight::Copy> LoraWeight::copies(std::span<const LoraBranch> branches) const {
  if (branches.size() != blocks_.size()) {
    fail(ErrorCode::invalid_argument, "[lora_linear] {} adapters for {} projections", branches.size(), blocks_.size());
  }
  std::vector<Copy> result;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = blocks_[i];
    const LoraBranch& branch = branches[i];
    const std::int64_t r = branch.a.defined() ? branch.a.size(0) : 0;
    if (r != block.rank_size || branch.out_features != block.out_size || branch.scale != block.scale) {
      fail(ErrorCode::invalid_argument, "[lora_linear] adapter {} changed its rank, width or scale", i);
    }
    if (r == 0) continue;
    result.push_back({branch.a.detach(), a_.slice(0, block.rank_begin, r), 1});
    result.push_back({branch.b.detach(),
                      scaled_b_.slice(0, block.out_begin, block.out_size).slice(1, block.rank_begin, r), branch.scale});
  }
  return result;
}

void LoraWeight::refresh(std::span<const LoraBranch> branches) { copy_each(copies(branches)); }

}  // namespace wick
