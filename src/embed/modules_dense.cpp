#include "core/fail.h"
#include "embed/modules.h"
#include "io/json.h"
#include "models/weights.h"
#include "wick/ops.h"

namespace wick {

namespace fs = std::filesystem;

DenseModule::Activation DenseModule::read_activation(const std::string& path, const std::string& where) {
  if (path.starts_with("torch.nn.")) {
    const std::string name = path.substr(path.rfind('.') + 1);
    if (name == "Identity") return Activation::identity;
    if (name == "Tanh") return Activation::tanh;
    if (name == "GELU") return Activation::gelu;
    if (name == "ReLU") return Activation::relu;
  }
  fail(ErrorCode::unsupported,
       "{}: \"activation_function\" is \"{}\", only torch.nn's Identity, Tanh, GELU and ReLU are supported", where,
       path);
}

DenseModule DenseModule::load(const fs::path& folder, const LoadOptions& options) {
  const fs::path path = folder / "config.json";
  const std::string where = path.string();
  const Json json = read_json_file(path);
  const std::int64_t in = get_positive(json, "in_features", where);
  const std::int64_t out = get_positive(json, "out_features", where);
  for (const auto& [key, value] : json.items()) {
    const bool of_sentence = key == "module_input_name" || key == "module_output_name";
    const bool known = key == "in_features" || key == "out_features" || key == "bias" || key == "activation_function" ||
                       (of_sentence && (value.is_null() || value == "sentence_embedding")) ||
                       (key == "use_residual" && value == false);
    if (!known) fail(ErrorCode::unsupported, "{}: \"{}\" {} is not supported", where, key, value.dump());
  }
  DenseModule dense;
  dense.activation_ = read_activation(
      get_or<std::string>(json, "activation_function", "torch.nn.modules.activation.Tanh", where), where);
  const fs::path pickled = folder / "pytorch_model.bin";
  if (!fs::exists(folder / "model.safetensors") && fs::exists(pickled)) {
    fail(ErrorCode::unsupported, "{}: only safetensors are read; there is no model.safetensors beside it",
         pickled.string());
  }
  WeightReader reader(folder, options.dtype == DType::f64 ? DType::f64 : DType::f32, options.device);
  dense.weight_ = reader.take("linear.weight", {out, in});
  if (get_or<bool>(json, "bias", true, where)) dense.bias_ = reader.take("linear.bias", {out});
  reader.finish([](const std::string&) { return false; });
  return dense;
}

Tensor DenseModule::operator()(const Tensor& x) const {
  const Tensor y = linear(x, weight_, bias_);
  switch (activation_) {
    case Activation::identity:
      return y;
    case Activation::tanh:
      return tanh(y);
    case Activation::gelu:
      return gelu(y, GeluKind::exact);
    case Activation::relu:
      // y where it is positive, by a step so steep that only numbers below 1e-28 see its slope. No gradient goes there.
      return mul(y, sigmoid(mul(y.detach(), 1e30)));
  }
  fail(ErrorCode::invalid_argument, "an activation that does not exist");
}

}  // namespace wick
