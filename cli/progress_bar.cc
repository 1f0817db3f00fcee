#include "cli/progress_bar.h"

#include <unistd.h>

#include <iostream>

#include "absl/strings/str_format.h"

namespace skim {
namespace {

constexpr int kWidth = 30;
constexpr char kClearLine[] = "\r\033[K";

}  // namespace

ProgressBar::ProgressBar() : is_terminal_(isatty(STDERR_FILENO) != 0) {}

ProgressBar::~ProgressBar() {
  if (is_terminal_) std::cerr << kClearLine << std::flush;
}

void ProgressBar::Show(double share, const std::string& text) {
  if (!is_terminal_) return;
  const auto filled = static_cast<size_t>(share * kWidth);
  std::cerr << kClearLine
            << absl::StreamFormat("[%s%s] %3.0f%%  %s", std::string(filled, '#'),
                                  std::string(kWidth - filled, '.'), share * 100, text)
            << std::flush;
}

}  // namespace skim
