#include <array>
#include <string_view>

#include "core/fail.h"
#include "io/json.h"
#include "wick/embedding.h"

namespace wick {
namespace {

constexpr std::array kArchitectures = {EncoderArchitecture::bert, EncoderArchitecture::roberta,
                                       EncoderArchitecture::xlm_roberta, EncoderArchitecture::mpnet};

EncoderArchitecture read_architecture(const Json& json, const std::string& where) {
  const std::string type = get<std::string>(json, "model_type", where);
  for (const EncoderArchitecture each : kArchitectures) {
    if (to_string(each) == type) return each;
  }
  fail(ErrorCode::unsupported,
       "{}: \"model_type\" is \"{}\", only bert, roberta, xlm-roberta and mpnet encoders are supported", where, type);
}

// Options that change what the model computes and that nothing here computes: refused by name unless they are off.
void refuse_unsupported(const Json& json, const std::string& where) {
  const std::string positions = get_or<std::string>(json, "position_embedding_type", "absolute", where);
  if (positions != "absolute") {
    fail(ErrorCode::unsupported, "{}: \"position_embedding_type\" is \"{}\", only absolute is supported", where,
         positions);
  }
  for (const char* key : {"is_decoder", "add_cross_attention"}) {
    if (get_or<bool>(json, key, false, where)) {
      fail(ErrorCode::unsupported, "{}: \"{}\" is true, only encoders are supported", where, key);
    }
  }
  if (json.contains("quantization_config") && !json["quantization_config"].is_null()) {
    fail(ErrorCode::unsupported, "{}: \"quantization_config\" is not supported", where);
  }
}

GeluKind read_activation(const Json& json, const std::string& where) {
  const std::string name = get_or<std::string>(json, "hidden_act", "gelu", where);
  if (name == "gelu") return GeluKind::exact;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return GeluKind::tanh;
  fail(ErrorCode::unsupported, "{}: \"hidden_act\" is \"{}\", only gelu, gelu_new and gelu_pytorch_tanh are supported",
       where, name);
}

// MPNet's class has the id fixed, whatever the file says.
std::optional<std::int32_t> read_padding(const Json& json, const std::string& where, const EncoderConfig& c) {
  if (c.architecture == EncoderArchitecture::bert) return std::nullopt;
  constexpr std::int32_t kUsual = 1;
  if (c.architecture == EncoderArchitecture::mpnet) return kUsual;
  const auto id = get_or<std::int32_t>(json, "pad_token_id", kUsual, where);
  if (id < 0 || id >= c.vocab_size) {
    fail(ErrorCode::format, "{}: \"pad_token_id\" is {}, expected an id below \"vocab_size\" {}", where, id,
         c.vocab_size);
  }
  return id;
}

}  // namespace

std::string_view to_string(EncoderArchitecture architecture) noexcept {
  switch (architecture) {
    case EncoderArchitecture::bert:
      return "bert";
    case EncoderArchitecture::roberta:
      return "roberta";
    case EncoderArchitecture::xlm_roberta:
      return "xlm-roberta";
    case EncoderArchitecture::mpnet:
      return "mpnet";
  }
  return "?";
}

EncoderConfig EncoderConfig::from_file(const std::filesystem::path& path) {
  const std::string where = path.string();
  const Json json = read_json_file(path);
  EncoderConfig c;
  c.architecture = read_architecture(json, where);
  refuse_unsupported(json, where);
  const bool mpnet = c.architecture == EncoderArchitecture::mpnet;
  c.vocab_size = get_positive(json, "vocab_size", where);
  c.hidden_size = get_positive(json, "hidden_size", where);
  c.intermediate_size = get_positive(json, "intermediate_size", where);
  c.num_hidden_layers = get_positive(json, "num_hidden_layers", where);
  c.num_attention_heads = get_positive(json, "num_attention_heads", where);
  c.max_position_embeddings = get_positive(json, "max_position_embeddings", where);
  c.type_vocab_size = mpnet ? 0 : get_positive_or(json, "type_vocab_size", 2, where);
  c.relative_attention_num_buckets = mpnet ? get_positive_or(json, "relative_attention_num_buckets", 32, where) : 0;
  c.pad_token_id = read_padding(json, where, c);
  c.activation = read_activation(json, where);
  c.layer_norm_eps = get_or<double>(json, "layer_norm_eps", 1e-12, where);
  if (c.hidden_size % c.num_attention_heads != 0) {
    fail(ErrorCode::format, "{}: \"hidden_size\" {} is no multiple of \"num_attention_heads\" {}", where, c.hidden_size,
         c.num_attention_heads);
  }
  if (!(c.layer_norm_eps > 0)) {
    fail(ErrorCode::format, "{}: \"layer_norm_eps\" is {}, expected a positive number", where, c.layer_norm_eps);
  }
  if (c.max_tokens() < 1) {
    fail(ErrorCode::format, "{}: \"max_position_embeddings\" is {}, expected more than the {} of padding", where,
         c.max_position_embeddings, c.first_position());
  }
  // MPNet's class sorts distances into 32 buckets, whatever the file says.
  if (mpnet && c.relative_attention_num_buckets != 32) {
    fail(ErrorCode::unsupported, "{}: \"relative_attention_num_buckets\" is {}, only 32 is supported", where,
         c.relative_attention_num_buckets);
  }
  return c;
}

}  // namespace wick
