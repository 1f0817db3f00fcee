// One line on stderr that redraws itself; silent if stderr is no terminal.
#pragma once

#include <string>

namespace skim {

class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar();                                    // clears the line
  void Show(double share, const std::string& text);  // share in [0, 1]

 private:
  const bool is_terminal_;
};

}  // namespace skim
