#include "loadtest/metrics_scrape.h"

#include <curl/curl.h>

#include <memory>
#include <sstream>

#include "absl/strings/numbers.h"

namespace skim {
namespace {

constexpr long kTimeoutSeconds = 10;

size_t Append(char* data, size_t size, size_t count, void* out) {
  static_cast<std::string*>(out)->append(data, size * count);
  return size * count;
}

absl::StatusOr<std::string> HttpGet(const std::string& url) {
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl(curl_easy_init(),
                                                                 curl_easy_cleanup);
  if (curl == nullptr) return absl::InternalError("curl does not start");
  std::string body;
  curl_easy_setopt(curl.get(), CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_PROXY, "");
  curl_easy_setopt(curl.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_TIMEOUT, kTimeoutSeconds);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, Append);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &body);
  const CURLcode code = curl_easy_perform(curl.get());
  if (code != CURLE_OK) {
    return absl::UnavailableError(url + ": " + curl_easy_strerror(code));
  }
  return body;
}

}  // namespace

absl::StatusOr<MetricValues> ParseMetrics(const std::string& text) {
  MetricValues values;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line.front() == '#') continue;
    const size_t space = line.rfind(' ');
    double value = 0;
    if (space == std::string::npos || !absl::SimpleAtod(line.substr(space + 1), &value)) {
      return absl::InvalidArgumentError("not a metric: '" + line + "'");
    }
    values[line.substr(0, space)] = value;
  }
  return values;
}

absl::StatusOr<MetricValues> ScrapeMetrics(const std::string& address) {
  const auto text = HttpGet("http://" + address + "/metrics");
  if (!text.ok()) return text.status();
  return ParseMetrics(*text);
}

}  // namespace skim
