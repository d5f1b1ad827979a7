#include "wick/contrastive.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/fail.h"

namespace wick {
namespace {

// Which texts are equal, among the anchors, positives and negatives of a batch.
class Texts {
 public:
  Texts(const Tensor& vectors, const Tensor& texts, std::int64_t rows)
      : rows_(static_cast<std::size_t>(rows)), numbers_(texts.to_vector<std::int32_t>()) {
    const auto columns = rows > 0 ? texts.numel() / rows : 0;
    if (texts.rank() != 1 || vectors.rank() != 2 || vectors.size(0) != texts.numel() ||
        columns * rows != texts.numel() || columns < 2 || columns > 3) {
      fail(ErrorCode::invalid_argument,
           "[contrastive_loss] vectors are {} and texts {}, expected 2 or 3 for each of {} rows", describe(vectors),
           describe(texts), rows);
    }
  }

  std::size_t rows() const { return rows_; }
  std::size_t candidates() const { return numbers_.size() - rows_; }
  std::int32_t anchor(std::size_t row) const { return numbers_[row]; }
  std::int32_t candidate(std::size_t i) const { return numbers_[rows_ + i]; }
  // Another candidate that answers as rightly as the row's positive does.
  bool also_right(std::size_t row, std::size_t i) const {
    if (i == row) return false;
    return candidate(i) == candidate(row) || (i < rows_ && anchor(i) == anchor(row));
  }

 private:
  std::size_t rows_;
  std::vector<std::int32_t> numbers_;
};

Tensor unit(const Tensor& vectors) {
  return l2_normalize(cast(vectors, vectors.dtype() == DType::f64 ? DType::f64 : DType::f32));
}

// The sum over rows of -log softmax(logits)[row], over what the mask leaves.
Tensor ranking_loss(const Tensor& logits, const Tensor& mask) {
  const std::int64_t rows = logits.size(0);
  std::vector<std::int32_t> own(static_cast<std::size_t>(rows));
  for (std::size_t i = 0; i < own.size(); ++i) own[i] = static_cast<std::int32_t>(i);
  const Tensor scores = where(mask, logits, -std::numeric_limits<double>::infinity());
  const Tensor largest = max(scores, -1, true);
  const Tensor centred = sub(scores, largest);
  const Tensor right = gather_columns(centred, Tensor::from(own, {rows}).to(logits.device()));
  return sum(sub(log(sum(exp(centred), -1)), right));
}

}  // namespace

Tensor contrastive_loss(const Tensor& vectors, const Tensor& texts, std::int64_t rows,
                        const ContrastiveOptions& options) {
  if (!(options.temperature > 0) || !std::isfinite(options.temperature)) {
    fail(ErrorCode::invalid_argument, "[contrastive_loss] temperature is {}, expected more than 0",
         options.temperature);
  }
  const Texts batch(vectors, texts, rows);
  const auto candidates = static_cast<std::int64_t>(batch.candidates());
  std::vector<std::int32_t> mask;
  mask.reserve(batch.rows() * batch.candidates());
  for (std::size_t row = 0; row < batch.rows(); ++row) {
    for (std::size_t i = 0; i < batch.candidates(); ++i) mask.push_back(batch.also_right(row, i) ? 0 : 1);
  }
  const Tensor allowed = Tensor::from(mask, {rows, candidates}).to(vectors.device());
  const std::int64_t parts[] = {rows, candidates};
  const std::vector<Tensor> sides = split(unit(vectors), 0, parts);
  const Tensor logits = mul(matmul(sides[0], transpose(sides[1], 0, 1)), 1 / options.temperature);
  const Tensor forward = ranking_loss(logits, allowed);
  if (!options.symmetric) return forward;
  // Equal anchors or equal positives: the same relation both ways.
  const auto square = [&](const Tensor& t) { return transpose(slice(t, 1, 0, rows), 0, 1); };
  return mul(add(forward, ranking_loss(square(logits), square(allowed))), 0.5);
}

double recall_at_1(const Tensor& vectors, const Tensor& texts, std::int64_t rows) {
  const NoGrad no_grad;
  const Texts batch(vectors, texts, rows);
  const Tensor all = unit(vectors);
  const Tensor candidates = transpose(all.slice(0, rows, all.size(0) - rows), 0, 1);
  constexpr std::int64_t kBlock = 1024;  // rows whose cosines are held at once
  std::int64_t found = 0;
  for (std::int64_t begin = 0; begin < rows; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, rows - begin);
    const std::vector<double> cosines =
        matmul(all.slice(0, begin, count), candidates).to(DType::f64).to_vector<double>();
    for (std::int64_t i = 0; i < count; ++i) {
      const auto row = static_cast<std::size_t>(begin + i);
      const auto from = cosines.begin() + i * static_cast<std::ptrdiff_t>(batch.candidates());
      const auto best = static_cast<std::size_t>(
          std::max_element(from, from + static_cast<std::ptrdiff_t>(batch.candidates())) - from);
      if (best == row || batch.also_right(row, best)) ++found;
    }
  }
  return static_cast<double>(found) / static_cast<double>(rows);
}

}  // namespace wick
