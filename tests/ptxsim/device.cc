#include "tests/ptxsim/device.h"

#include <cuda_runtime_api.h>
#include <fatbinary_section.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "tests/ptxsim/fault.h"
#include "tests/ptxsim/runtime.h"

namespace ptxsim {
namespace {

constexpr int kMaxDynamicShared = 227 << 10;

long FromEnvironment(const char* name, long otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atol(text);
}

// Layout of a fat binary: a header, then entries of a header and a payload each.
struct FatHeader {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t payload_bytes;
};
struct FatEntry {
  uint16_t kind;  // 1 = PTX, 2 = machine code
  uint16_t version;
  uint32_t header_bytes;
  uint64_t payload_bytes;
};

}  // namespace

Device& Device::Get() {
  static auto* device = new Device;  // outlives every static of the program
  return *device;
}

Device::Device()
    : present_(FromEnvironment("PTXSIM_NO_DEVICE", 0) == 0),
      fail_malloc_(FromEnvironment("PTXSIM_FAIL_MALLOC", 0)),
      fail_launch_(FromEnvironment("PTXSIM_FAIL_LAUNCH", 0)),
      fail_instantiation_(FromEnvironment("PTXSIM_FAIL_INSTANTIATION", 0)),
      random_(static_cast<uint64_t>(FromEnvironment("PTXSIM_SEED", 1))),
      memory_(static_cast<size_t>(FromEnvironment("PTXSIM_MEMORY_MB", 4096)) << 20),
      streams_(&random_) {}

void Device::RegisterFatBinary(const void* wrapper) {
  const auto* data =
      reinterpret_cast<const uint8_t*>(static_cast<const __fatBinC_Wrapper_t*>(wrapper)->data);
  FatHeader header;
  std::memcpy(&header, data, sizeof(header));
  const uint8_t* at = data + header.header_bytes;
  const uint8_t* end = at + header.payload_bytes;
  while (at < end) {
    FatEntry entry;
    std::memcpy(&entry, at, sizeof(entry));
    const char* payload = reinterpret_cast<const char*>(at + entry.header_bytes);
    if (entry.kind == 1) {
      const std::string text(payload, strnlen(payload, entry.payload_bytes));
      if (text.find(".version") == std::string::npos) {
        Fault("the PTX is compressed: build with nvcc --no-compress");
      }
      modules_.push_back(ParseModule(text));
      target_ = modules_.back()->target;
      for (auto& [name, kernel] : modules_.back()->kernels) kernels_[name] = &kernel;
      return;
    }
    at += entry.header_bytes + entry.payload_bytes;
  }
  Fault("a fat binary without PTX");
}

void Device::RegisterKernel(const void* host_function, const std::string& name) {
  const auto found = kernels_.find(name);
  if (found == kernels_.end()) Fault("no PTX for kernel " + name);
  handles_[host_function].kernel = found->second;
}

KernelHandle* Device::FindKernel(const void* host_function) {
  const auto found = handles_.find(host_function);
  return found == handles_.end() ? nullptr : &found->second;
}

bool Pool::Use(size_t bytes, DeviceMemory* memory) {
  const size_t wanted = used + bytes;
  if (wanted > reserved) {
    if (!memory->Take(wanted - reserved)) return false;
    reserved = wanted;
  }
  used = wanted;
  return true;
}

void Pool::Trim(DeviceMemory* memory) {
  const size_t keep = std::max(used, threshold);
  if (reserved <= keep) return;
  memory->Give(reserved - keep);
  reserved = keep;
}

uint64_t Device::Allocate(size_t bytes, Pool* pool) {
  if (fail_malloc_ > 0 && --fail_malloc_ == 0) return 0;
  if (pool == nullptr) return memory_.Take(bytes) ? memory_.Place(bytes) : 0;
  if (!pool->Use(bytes, &memory_)) return 0;
  const uint64_t address = memory_.Place(bytes);
  pool->live[address] = bytes;
  return address;
}

bool Device::IsPinned(const void* address, size_t bytes) const {
  const auto begin = reinterpret_cast<uint64_t>(address);
  auto after = pinned.upper_bound(begin);
  if (after == pinned.begin()) return false;
  --after;
  return begin + bytes <= after->first + after->second;
}

void Device::FailLaunch(long n) {
  fail_launch_ = n;
  sticky_error_ = 0;
}

int Device::LaunchError() {
  if (fail_launch_ > 0 && --fail_launch_ == 0) sticky_error_ = cudaErrorLaunchFailure;
  return sticky_error_;
}

int Device::EnqueueLaunch(KernelHandle& handle, std::array<unsigned, 3> grid,
                          std::array<unsigned, 3> block, void** args, size_t dynamic_shared,
                          void* stream) {
  if (const int error = LaunchError()) return error;
  Kernel& kernel = *handle.kernel;
  const uint64_t threads = uint64_t{block[0]} * block[1] * block[2];
  const bool empty = threads == 0 || grid[0] == 0 || grid[1] == 0 || grid[2] == 0;
  if (empty || threads > 1024 || block[2] > 64 || grid[1] > 65535 || grid[2] > 65535 ||
      grid[0] > INT32_MAX) {
    return cudaErrorInvalidConfiguration;
  }
  if (kernel.max_threads > 0 && threads > static_cast<uint64_t>(kernel.max_threads)) {
    return cudaErrorLaunchOutOfResources;
  }
  const size_t shared = dynamic_shared + static_cast<size_t>(kernel.static_shared_bytes);
  if (dynamic_shared > static_cast<size_t>(handle.dynamic_shared_limit) ||
      shared > kMaxDynamicShared) {
    return cudaErrorInvalidValue;
  }
  Decode(kernel);
  Launch launch{&kernel, grid, block, static_cast<int>(dynamic_shared), {}};
  launch.parameters.resize(static_cast<size_t>(kernel.parameter_bytes));
  for (size_t p = 0; p < kernel.parameters.size(); ++p) {
    const Parameter& parameter = kernel.parameters[p];
    std::memcpy(launch.parameters.data() + parameter.offset, args[p],
                static_cast<size_t>(parameter.bytes));
  }
  return Enqueue(static_cast<cudaStream_t>(stream),
                 [this, launch = std::move(launch)] { Run(launch, memory_, random_); });
}

void Device::CheckEnd() {
  for (const Stream* stream : streams_.live()) {
    if (stream->capture != nullptr) Fault("the program ends while a stream captures");
  }
  if (!streams_.Idle()) Fault("the program ends with work that nobody waited for");
  if (memory_.live() > 0) {
    Fault("leak: " + std::to_string(memory_.live()) + " device allocations are never freed");
  }
  if (!pools.empty()) Fault("leak: a memory pool is never destroyed");
  if (!pinned.empty()) Fault("leak: pinned host memory is never freed");
  if (streams_.created() > 0) Fault("leak: a stream is never destroyed");
  if (!events.empty()) Fault("leak: an event is never destroyed");
  if (!graphs.empty()) Fault("leak: a graph is never destroyed");
  if (!executable_graphs.empty()) Fault("leak: an executable graph is never destroyed");
}

}  // namespace ptxsim
