#include "tests/ptxsim/module.h"

#include <algorithm>
#include <cstdlib>

#include "tests/ptxsim/fault.h"
#include "tests/ptxsim/memory_map.h"
#include "tests/ptxsim/parser.h"

namespace ptxsim {
namespace {

const std::map<std::string, uint16_t> kSpecialNames = {{"%tid.x", kTidX},
                                                       {"%tid.y", kTidY},
                                                       {"%tid.z", kTidZ},
                                                       {"%ntid.x", kNtidX},
                                                       {"%ntid.y", kNtidY},
                                                       {"%ntid.z", kNtidZ},
                                                       {"%ctaid.x", kCtaidX},
                                                       {"%ctaid.y", kCtaidY},
                                                       {"%ctaid.z", kCtaidZ},
                                                       {"%nctaid.x", kNctaidX},
                                                       {"%nctaid.y", kNctaidY},
                                                       {"%nctaid.z", kNctaidZ},
                                                       {"%laneid", kLaneId},
                                                       {"%warpid", kWarpId},
                                                       {"%dynamic_smem_size", kDynamicSharedSize},
                                                       {"_", kSink}};

int RoundUp(int n, int to) { return (n + to - 1) / to * to; }

Type TypeNamed(const std::string& name) {
  static const std::map<std::string, Type> kTypes = {
      {".pred", Type::kPred}, {".b8", Type::kB8},   {".b16", Type::kB16}, {".b32", Type::kB32},
      {".b64", Type::kB64},   {".u8", Type::kU8},   {".u16", Type::kU16}, {".u32", Type::kU32},
      {".u64", Type::kU64},   {".s8", Type::kS8},   {".s16", Type::kS16}, {".s32", Type::kS32},
      {".s64", Type::kS64},   {".f16", Type::kF16}, {".f32", Type::kF32}, {".f64", Type::kF64}};
  const auto found = kTypes.find(name);
  return found == kTypes.end() ? Type::kNone : found->second;
}

// A declared variable or parameter: ".align 16 .b8 name[256]".
struct Variable {
  std::string name;
  int bytes = 0, align = 1;
  bool sized = true;  // not "name[]"
};

Variable ParseVariable(std::string text, int line) {
  Variable variable;
  int element = 0;
  while (!text.empty() && text[0] == '.') {
    const std::string word = TakeWord(&text);
    if (word == ".align") {
      variable.align = std::atoi(TakeWord(&text).c_str());
    } else if (const Type type = TypeNamed(word); type != Type::kNone) {
      element = BytesOf(type);
    } else if (word != ".ptr" && word != ".global") {
      Fault("line " + std::to_string(line) + ": unknown directive " + word);
    }
  }
  const size_t bracket = text.find('[');
  variable.name = Trim(text.substr(0, bracket));
  variable.align = std::max(variable.align, element);
  variable.bytes = element;
  if (bracket != std::string::npos) {
    const int count = std::atoi(text.c_str() + bracket + 1);
    variable.bytes = element * count;
    variable.sized = count > 0;
  }
  if (element == 0) Fault("line " + std::to_string(line) + ": unknown declaration " + text);
  return variable;
}

class ModuleParser {
 public:
  explicit ModuleParser(const std::string& text) : statements_(SplitStatements(text)) {}

  std::unique_ptr<Module> Parse() {
    while (next_ < statements_.size()) {
      const Statement& statement = statements_[next_++];
      std::string text = statement.text;
      if (text.empty()) continue;
      if (text.rfind(".target sm_", 0) == 0) {
        module_->target = std::atoi(text.c_str() + 11);
      } else if (text.find(".entry ") != std::string::npos) {
        ParseKernel(statement);
      } else if (text.rfind(".extern .shared ", 0) == 0) {
        dynamic_shared_.push_back(ParseVariable(text.substr(16), statement.line).name);
      } else if (text.rfind(".version", 0) != 0 && text.rfind(".address_size", 0) != 0 &&
                 text.rfind(".file", 0) != 0) {
        Unknown(statement);
      }
    }
    return std::move(module_);
  }

 private:
  [[noreturn]] void Unknown(const Statement& statement) {
    Fault("line " + std::to_string(statement.line) + ": cannot parse '" + statement.text + "'");
  }

  // ".visible .entry name( .param .u64 a, .. ) .maxntid 128, 1, 1"
  void ParseKernel(const Statement& header) {
    const std::string& text = header.text;
    const size_t begin = text.find(".entry ") + 7, open = text.find('(', begin);
    const std::string name = Trim(text.substr(begin, std::min(open, text.size()) - begin));
    kernel_ = &module_->kernels[name];
    kernel_->name = name;
    kernel_->registers.assign(kSpecialRegisters, 0);
    names_.assign(1, {});
    constants_.clear();
    labels_.clear();
    size_t close = open;
    if (open != std::string::npos) {
      close = text.find(')', open);
      for (const std::string& parameter : SplitOperands(text.substr(open + 1, close - open - 1))) {
        const Variable v = ParseVariable(Trim(parameter.substr(parameter.find(' '))), header.line);
        const int offset = RoundUp(kernel_->parameter_bytes, v.align);
        kernel_->parameters.push_back({v.name, offset, v.bytes});
        kernel_->parameter_bytes = offset + v.bytes;
        Define(v.name, static_cast<uint64_t>(offset));
      }
      if (const size_t limit = text.find(".maxntid", close); limit != std::string::npos) {
        kernel_->max_threads = std::atoi(text.c_str() + limit + 8);
      }
    }
    for (const std::string& variable : dynamic_shared_) dynamic_.push_back(Define(variable, 0));
    ParseBody();
    // Dynamic shared memory follows the static variables.
    const int static_bytes = RoundUp(kernel_->static_shared_bytes, dynamic_.empty() ? 1 : 16);
    kernel_->static_shared_bytes = static_bytes;
    for (uint16_t reg : dynamic_) kernel_->registers[reg] = kSharedBegin + static_bytes;
    dynamic_.clear();
    for (Instruction& instruction : kernel_->code) {
      if (instruction.label.empty()) continue;
      const auto label = labels_.find(instruction.label);
      if (label == labels_.end()) Fault("no label " + instruction.label);
      instruction.target = label->second;
    }
  }

  void ParseBody() {
    while (next_ < statements_.size()) {
      const Statement& statement = statements_[next_++];
      if (statement.end == '{') {
        if (!statement.text.empty()) Unknown(statement);
        names_.emplace_back();  // a block has names of its own
        continue;
      }
      if (statement.end == ':') {
        labels_[statement.text] = static_cast<int>(kernel_->code.size());
        continue;
      }
      if (!statement.text.empty()) ParseLine(statement);
      if (statement.end == '}') {
        names_.pop_back();
        if (names_.empty()) return;
      }
    }
    Fault("kernel " + kernel_->name + " has no end");
  }

  void ParseLine(const Statement& statement) {
    std::string text = statement.text;
    if (text[0] != '.') {
      ParseInstruction(statement);
      return;
    }
    const std::string directive = TakeWord(&text);
    if (directive == ".reg") {
      TakeWord(&text);  // type: a register of ours holds any
      for (const std::string& name : SplitOperands(text)) DefineRegisters(name);
    } else if (directive == ".shared" || directive == ".local") {
      int& bytes = directive == ".shared" ? kernel_->static_shared_bytes : kernel_->local_bytes;
      const Variable v = ParseVariable(text, statement.line);
      const int offset = RoundUp(bytes, v.align);
      Define(v.name, (directive == ".shared" ? kSharedBegin : kLocalBegin) + offset);
      bytes = offset + v.bytes;
    } else if (directive != ".pragma" && directive != ".loc") {
      Unknown(statement);
    }
  }

  void DefineRegisters(const std::string& name) {
    const size_t angle = name.find('<');
    if (angle == std::string::npos) {
      Define(name, 0);
      return;
    }
    const std::string stem = name.substr(0, angle);
    const int count = std::atoi(name.c_str() + angle + 1);
    for (int i = 0; i < count; ++i) Define(stem + std::to_string(i), 0);
  }

  uint16_t Define(const std::string& name, uint64_t value) {
    return names_.back()[name] = NewRegister(value);
  }

  uint16_t NewRegister(uint64_t value) {
    if (kernel_->registers.size() > UINT16_MAX) Fault(kernel_->name + " has too many registers");
    kernel_->registers.push_back(value);
    return static_cast<uint16_t>(kernel_->registers.size() - 1);
  }

  void ParseInstruction(const Statement& statement) {
    std::string text = statement.text;
    Instruction instruction;
    instruction.line = statement.line;
    if (text[0] == '@') {
      std::string guard = TakeWord(&text).substr(1);
      instruction.guard_negated = guard[0] == '!';
      instruction.guard = Register(guard.substr(instruction.guard_negated ? 1 : 0), statement);
    }
    instruction.opcode = TakeWord(&text);
    if (instruction.opcode.rfind("bra", 0) == 0) {
      instruction.label = text;
    } else {
      for (const std::string& operand : SplitOperands(text)) {
        instruction.operands.push_back(ParseOperand(operand, statement));
      }
    }
    kernel_->code.push_back(std::move(instruction));
  }

  Operand ParseOperand(std::string text, const Statement& statement) {
    Operand operand;
    if (text[0] == '[') {
      operand.memory = true;
      text = Trim(text.substr(1, text.size() - 2));
      const size_t plus = text.find('+');
      if (plus != std::string::npos) {
        operand.offset = std::strtoll(text.c_str() + plus + 1, nullptr, 0);
        text = Trim(text.substr(0, plus));
      }
    } else if (text[0] == '!') {
      operand.negated = true;
      text = Trim(text.substr(1));
    }
    std::vector<std::string> parts = {text};
    if (text[0] == '{') {
      parts = SplitOperands(text.substr(1, text.size() - 2));
    } else if (const size_t bar = text.find('|'); bar != std::string::npos) {
      parts = {Trim(text.substr(0, bar)), Trim(text.substr(bar + 1))};
    }
    if (parts.size() > operand.reg.size()) Unknown(statement);
    for (const std::string& part : parts) {
      operand.reg[operand.count++] = Register(part, statement);
    }
    return operand;
  }

  uint16_t Register(const std::string& name, const Statement& statement) {
    if (const auto special = kSpecialNames.find(name); special != kSpecialNames.end()) {
      return special->second;
    }
    for (auto scope = names_.rbegin(); scope != names_.rend(); ++scope) {
      if (const auto found = scope->find(name); found != scope->end()) return found->second;
    }
    if (const auto known = constants_.find(name); known != constants_.end()) return known->second;
    return constants_[name] = NewRegister(Constant(name, statement));
  }

  // 12, -3, 0x1F, 0f3F800000 (float bits), 0d3FF0000000000000, 5U, WARP_SZ
  uint64_t Constant(const std::string& text, const Statement& statement) {
    if (text == "WARP_SZ") return 32;
    char* end = nullptr;
    uint64_t value = 0;
    if (text.size() > 2 && text[0] == '0' &&
        (text[1] == 'f' || text[1] == 'F' || text[1] == 'd' || text[1] == 'D')) {
      value = std::strtoull(text.c_str() + 2, &end, 16);
    } else if (text[0] == '-') {
      value = static_cast<uint64_t>(std::strtoll(text.c_str(), &end, 0));
    } else {
      value = std::strtoull(text.c_str(), &end, 0);
    }
    if (*end == 'U') ++end;
    if (*end != '\0' || end == text.c_str()) Unknown(statement);
    return value;
  }

  std::vector<Statement> statements_;
  size_t next_ = 0;
  std::unique_ptr<Module> module_ = std::make_unique<Module>();
  std::vector<std::string> dynamic_shared_;  // names of extern shared arrays
  Kernel* kernel_ = nullptr;
  std::vector<std::map<std::string, uint16_t>> names_;  // innermost block last
  std::map<std::string, uint16_t> constants_;
  std::map<std::string, int> labels_;
  std::vector<uint16_t> dynamic_;
};

}  // namespace

int BytesOf(Type type) {
  switch (type) {
    case Type::kB8:
    case Type::kU8:
    case Type::kS8:
      return 1;
    case Type::kB16:
    case Type::kU16:
    case Type::kS16:
    case Type::kF16:
    case Type::kBf16:
      return 2;
    case Type::kB64:
    case Type::kU64:
    case Type::kS64:
    case Type::kF64:
      return 8;
    case Type::kNone:
      return 0;
    default:
      return 4;
  }
}

std::unique_ptr<Module> ParseModule(const std::string& text) { return ModuleParser(text).Parse(); }

}  // namespace ptxsim
