// skim model: what the daemon serves, as a small table.
#pragma once

#include "cli/command.h"

namespace skim {

class ModelCommand final : public Command {
 public:
  ExitCode Run(const ConnectionOptions& options) override;
};

}  // namespace skim
