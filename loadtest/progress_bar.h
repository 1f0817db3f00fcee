// One line on stderr that redraws itself; silent if stderr is no terminal.
#pragma once

#include "loadtest/load_runner.h"

namespace skim {

class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar();  // clears the line
  void Show(const LoadProgress& progress);

 private:
  const bool is_terminal_;
};

}  // namespace skim
