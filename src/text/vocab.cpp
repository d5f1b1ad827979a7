#include "text/vocab.h"

#include <bit>
#include <functional>

namespace wick::text {
Vocab::Probe Vocab::probe(std::string_view text, bool tag) {
  return {static_cast<std::uint64_t>(std::hash<std::string_view>{}(text)) ^ (tag ? 0x9E3779B97F4A7C15ULL : 0)};
}

void Vocab::reserve(std::size_t count, std::size_t bytes) {
  entries_.reserve(count);
  arena_.reserve(bytes);
  const std::size_t slots = std::bit_ceil(count * 2 + 2);
  if (slots > slots_.size()) grow(slots);
}

void Vocab::grow(std::size_t slots) {
  slots_.assign(slots, Slot{});
  const std::size_t mask = slots - 1;
  for (std::size_t id = 0; id < entries_.size(); ++id) {
    if (!entries_[id].used) continue;
    const std::uint64_t hash = probe(text(static_cast<TokenId>(id)), entries_[id].tag).hash;
    std::size_t at = hash & mask;
    while (slots_[at].id >= 0) at = (at + 1) & mask;
    slots_[at] = {static_cast<std::uint32_t>(hash >> 32), static_cast<TokenId>(id)};
  }
}

Vocab::Added Vocab::add(Probe probe, TokenId id, std::string_view text, bool tag) {
  if (slots_.size() < (count_ + 1) * 2) grow(std::bit_ceil((count_ + 1) * 4));
  const std::uint64_t hash = probe.hash;
  const auto short_hash = static_cast<std::uint32_t>(hash >> 32);
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = hash & mask;
  for (; slots_[at].id >= 0; at = (at + 1) & mask) {
    const TokenId other = slots_[at].id;
    if (slots_[at].hash == short_hash && this->text(other) == text && this->tag(other) == tag) {
      return Added::duplicate_text;
    }
  }
  const auto index = static_cast<std::size_t>(id);
  if (index >= entries_.size()) entries_.resize(index + 1);
  if (entries_[index].used) return Added::duplicate_id;
  entries_[index] = {arena_.size(), static_cast<std::uint32_t>(text.size()), true, tag};
  arena_.append(text);
  slots_[at] = {short_hash, id};
  ++count_;
  return Added::ok;
}

std::optional<TokenId> Vocab::find(Probe probe, std::string_view text, bool tag) const {
  if (slots_.empty()) return std::nullopt;
  const std::uint64_t hash = probe.hash;
  const auto short_hash = static_cast<std::uint32_t>(hash >> 32);
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t at = hash & mask; slots_[at].id >= 0; at = (at + 1) & mask) {
    const TokenId id = slots_[at].id;
    if (slots_[at].hash == short_hash && this->text(id) == text && this->tag(id) == tag) return id;
  }
  return std::nullopt;
}

}  // namespace wick::text
