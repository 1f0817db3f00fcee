#include "tests/kernels/gemm_paths.h"

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/gemm_amx.h"
#include "kernels/cpu/isa.h"

namespace skim {
namespace {

void EmulatedTile(const GemmTile& t) {
  EmulatedAmxTiles tiles;
  int unconfigured = 0;  // the emulated state does not outlive the call
  GemmTile copy = t;
  copy.configured_rows = &unconfigured;
  AmxTileKernel<EmulatedAmxTiles>(tiles, copy).Run();
}

}  // namespace

const GemmKernels& EmulatedAmxKernels() {
  static const GemmKernels kernels = {.max_rows = kMaxTileRows,
                                      .even_tiles = false,
                                      .prefetch_from_rows = 2,
                                      .tile = EmulatedTile,
                                      .store_linear = kGemmPlain.store_linear,
                                      .store_swiglu = kGemmPlain.store_swiglu,
                                      .finish = kGemmPlain.finish};
  return kernels;
}

std::vector<GemmPath> GemmPaths() {
  std::vector<GemmPath> paths;
  for (Isa isa : SupportedIsas()) {
    paths.push_back({std::string(IsaName(isa)), &GemmKernelsOf(isa), isa == Isa::kPlain});
  }
  paths.push_back({"amx emulated", &EmulatedAmxKernels(), true});
  return paths;
}

}  // namespace skim
