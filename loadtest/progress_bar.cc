#include "loadtest/progress_bar.h"

#include <unistd.h>

#include <iostream>
#include <string>

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

void ProgressBar::Show(const LoadProgress& progress) {
  if (!is_terminal_) return;
  const auto filled = static_cast<size_t>(progress.share * kWidth);
  std::cerr << kClearLine
            << absl::StreamFormat("[%s%s] %3.0f%%  %d started, %d ended, %d failed",
                                  std::string(filled, '#'), std::string(kWidth - filled, '.'),
                                  progress.share * 100, progress.started, progress.ended,
                                  progress.failed)
            << std::flush;
}

}  // namespace skim
