#include "engine/quantization_config.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/json_file.h"

namespace skim {
namespace {

using nlohmann::json;

constexpr char kExpression[] = "re:";

// A JSON object inside the configuration, with its path for errors.
class Section {
 public:
  Section(const json& object, std::string path)
      : object_(object), path_(std::move(path)), fields_(object_, path_) {}

  const JsonFields& fields() const { return fields_; }
  const std::string& path() const { return path_; }

  absl::Status Refuse(const char* key, const std::string& what) const {
    return absl::UnimplementedError(absl::StrCat(path_, ": ", key, " ", what));
  }
  // Null if not given.
  absl::StatusOr<const json*> Object(const char* key) const {
    const json* value = fields_.Get(key);
    if (value && !value->is_object()) return fields_.Error(key, "is not an object");
    return value;
  }
  absl::Status Expect(const char* key, const std::string& wanted) const {
    SKIM_ASSIGN_OR_RETURN(const std::string value, fields_.String(key, ""));
    if (value == wanted) return absl::OkStatus();
    return Refuse(key, absl::StrCat("\"", value, "\" is not supported (\"", wanted, "\" is)"));
  }
  absl::Status ExpectFlag(const char* key, bool fallback, bool wanted) const {
    const json* value = fields_.Get(key);
    // `dynamic` may be a word in schemes that this engine does not have.
    const bool fits =
        value ? value->is_boolean() && value->get<bool>() == wanted : fallback == wanted;
    if (fits) return absl::OkStatus();
    return Refuse(key, absl::StrCat("must be ", wanted ? "true" : "false"));
  }
  absl::Status ExpectNothing(const char* key) const {
    return fields_.Has(key) ? Refuse(key, "is not supported") : absl::OkStatus();
  }

 private:
  const json& object_;
  const std::string path_;
  const JsonFields fields_;
};

// Eight bits of the type `type`.
absl::Status ExpectEightBits(const Section& section, const std::string& type) {
  SKIM_ASSIGN_OR_RETURN(const int64_t bits, section.fields().Int("num_bits", 8, 1, 64));
  if (bits != 8) return section.Refuse("num_bits", "must be 8");
  SKIM_RETURN_IF_ERROR(section.Expect("type", type));
  return section.ExpectFlag("symmetric", true, true);
}

absl::StatusOr<WeightFormat> ReadWeights(const Section& section) {
  SKIM_ASSIGN_OR_RETURN(const std::string type, section.fields().String("type", {}));
  if (type != "float" && type != "int") {
    return section.Refuse("type", absl::StrCat("\"", type, "\" is not supported"));
  }
  SKIM_RETURN_IF_ERROR(ExpectEightBits(section, type));
  SKIM_RETURN_IF_ERROR(section.Expect("strategy", "channel"));
  SKIM_RETURN_IF_ERROR(section.ExpectFlag("dynamic", false, false));
  return type == "float" ? WeightFormat::kFp8 : WeightFormat::kInt8;
}

absl::Status CheckActivations(const Section& group, WeightFormat format) {
  constexpr char kKey[] = "input_activations";
  SKIM_ASSIGN_OR_RETURN(const json* object, group.Object(kKey));
  if (!object) {
    if (format == WeightFormat::kFp8) return absl::OkStatus();
    return group.Refuse(kKey, "is missing: int8 weights are computed with int8 activations");
  }
  const Section section(*object, absl::StrCat(group.path(), ".", kKey));
  SKIM_RETURN_IF_ERROR(ExpectEightBits(section, format == WeightFormat::kFp8 ? "float" : "int"));
  SKIM_RETURN_IF_ERROR(section.ExpectFlag("dynamic", false, true));
  return section.Expect("strategy", "token");
}

absl::StatusOr<WeightFormat> ReadGroup(const Section& group) {
  const json* targets = group.fields().Get("targets");
  if (!targets || *targets != json::array({"Linear"})) {
    return group.Refuse("targets", "must be [\"Linear\"]");
  }
  SKIM_RETURN_IF_ERROR(group.ExpectNothing("output_activations"));
  SKIM_ASSIGN_OR_RETURN(const json* object, group.Object("weights"));
  if (!object) return group.fields().Error("weights", "is missing");
  SKIM_ASSIGN_OR_RETURN(const WeightFormat format,
                        ReadWeights(Section(*object, group.path() + ".weights")));
  SKIM_RETURN_IF_ERROR(CheckActivations(group, format));
  return format;
}

// "naive-quantized" is an older name of the same layout.
absl::Status CheckLayout(const Section& section, WeightFormat format) {
  SKIM_ASSIGN_OR_RETURN(const std::string layout, section.fields().String("format", ""));
  if (layout == "naive-quantized") return absl::OkStatus();
  return section.Expect("format",
                        format == WeightFormat::kFp8 ? "float-quantized" : "int-quantized");
}

absl::StatusOr<std::vector<std::string>> ReadIgnored(const Section& section) {
  std::vector<std::string> ignored;
  const json* list = section.fields().Get("ignore");
  if (!list) return ignored;
  if (!list->is_array()) return section.fields().Error("ignore", "is not a list of names");
  for (const json& name : *list) {
    if (!name.is_string()) return section.fields().Error("ignore", "is not a list of names");
    ignored.push_back(name.get<std::string>());
  }
  return ignored;
}

}  // namespace

bool QuantizationConfig::Ignores(const std::string& module) const {
  return std::ranges::count(ignored, module) > 0;
}

bool QuantizationConfig::HasExpressions() const {
  return std::ranges::any_of(ignored,
                             [](const auto& name) { return name.starts_with(kExpression); });
}

absl::StatusOr<QuantizationConfig> ReadQuantizationConfig(const json& object,
                                                          const std::string& file) {
  const std::string path = absl::StrCat(file, ": quantization_config");
  if (!object.is_object()) return absl::InvalidArgumentError(path + " is not an object");
  const Section section(object, path);
  SKIM_RETURN_IF_ERROR(section.Expect("quant_method", "compressed-tensors"));
  SKIM_RETURN_IF_ERROR(section.ExpectNothing("kv_cache_scheme"));
  SKIM_ASSIGN_OR_RETURN(const json* transforms, section.Object("transform_config"));
  if (transforms && !transforms->empty()) {
    return section.Refuse("transform_config", "is not supported");
  }
  SKIM_ASSIGN_OR_RETURN(const json* sparsity, section.Object("sparsity_config"));
  if (sparsity && !sparsity->empty()) {
    SKIM_RETURN_IF_ERROR(Section(*sparsity, path + ".sparsity_config").Expect("format", "dense"));
  }
  SKIM_ASSIGN_OR_RETURN(const json* groups, section.Object("config_groups"));
  if (!groups || groups->size() != 1) {
    return section.Refuse("config_groups", "must be one group for all linear layers");
  }
  const json& group = *groups->begin();
  const std::string group_path = absl::StrCat(path, ".", groups->begin().key());
  if (!group.is_object()) return absl::InvalidArgumentError(group_path + " is not an object");

  QuantizationConfig config;
  SKIM_ASSIGN_OR_RETURN(config.format, ReadGroup(Section(group, group_path)));
  SKIM_RETURN_IF_ERROR(CheckLayout(section, config.format));
  SKIM_ASSIGN_OR_RETURN(config.ignored, ReadIgnored(section));
  return config;
}

}  // namespace skim
