#include "kernels/cpu/cores.h"

#include <pthread.h>
#include <sched.h>

#include <fstream>
#include <set>
#include <string>

namespace skim {
namespace {

// The lowest hyper-thread of a CPU's core names the core; a machine that does not tell
// counts every CPU as a core.
int CoreOf(int cpu) {
  std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                     "/topology/thread_siblings_list");
  int first = cpu;
  if (!(file >> first)) return cpu;
  return first;
}

}  // namespace

std::vector<int> PhysicalCores() {
  std::vector<int> cpus;
  std::set<int> cores;
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return {0};
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed) && cores.insert(CoreOf(cpu)).second) cpus.push_back(cpu);
  }
  if (cpus.empty()) cpus.push_back(0);
  return cpus;
}

void PinThisThread(int cpu) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  pthread_setaffinity_np(pthread_self(), sizeof one, &one);
}

}  // namespace skim
