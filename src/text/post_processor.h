#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "wick/tokenizer.h"

namespace wick::text {

/// How many of the characters at either end of a token are white space.
struct Margins {
  std::uint32_t leading;
  std::uint32_t trailing;
};

/// An encoding on its way out. `offsets` and `margins` are empty when they are not wanted.
struct Draft {
  std::vector<TokenId> ids;
  std::vector<std::pair<std::size_t, std::size_t>> offsets;
  std::vector<Margins> margins;
};

/// Takes white space out of the offsets (ByteLevel with trim_offsets).
struct TrimStep {
  bool add_prefix_space;
};

/// Puts tokens around the sequence, as TemplateProcessing's `single` says, and BertProcessing and RobertaProcessing do.
/// Nothing stands for the sequence itself.
struct TemplateStep {
  std::vector<std::optional<TokenId>> pieces;

  std::size_t added() const;
};

/// Cuts to `length` tokens, template included.
struct Truncation {
  std::size_t length;
  bool keep_end;  // direction Left
};

/// What happens after the model.
class PostProcessor {
 public:
  using Step = std::variant<TrimStep, TemplateStep>;

  PostProcessor(std::vector<Step> steps, std::optional<Truncation> truncation)
      : steps_(std::move(steps)), truncation_(truncation) {}

  /// `max_tokens`: cuts to this length in place of the file's. Error(invalid_argument) if it is less than the templates
  /// add.
  void run(Draft& draft, bool with_offsets, bool add_special_tokens, std::optional<std::size_t> max_tokens) const;
  /// Whether Draft::margins is needed for offsets.
  bool trims() const;
  /// The tokens that the templates add.
  std::size_t added() const;
  const std::optional<Truncation>& truncation() const { return truncation_; }

 private:
  std::vector<Step> steps_;
  std::optional<Truncation> truncation_;
};

}  // namespace wick::text
