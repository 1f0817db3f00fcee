#include "tests/kernels/gemm_paths.h"

#include "base/fp8.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/gemm_amx.h"
#include "kernels/cpu/isa.h"

namespace skim {
namespace {

template <AmxProduct kProduct>
void EmulatedTile(const GemmTile& t) {
  EmulatedAmxTiles tiles;
  int unconfigured = 0;  // the emulated state does not outlive the call
  GemmTile copy = t;
  copy.configured_rows = &unconfigured;
  AmxTileKernel<EmulatedAmxTiles, kProduct>(tiles, copy).Run();
}

// As ExpandFp8Avx512, from the description of the layout.
void ExpandFp8(const ExpandLines& e) {
  for (int64_t l = 0; l < 2 * e.lines; ++l) {
    for (int c = 0; c < e.width; ++c) {
      const uint8_t* codes = e.w + l / 2 * e.w_stride + c * 64;
      auto* out = reinterpret_cast<uint16_t*>(e.out + (l * e.width + c) * 64);
      for (int lane = 0; lane < 32; ++lane) {
        const uint8_t code = codes[lane / 8 * 16 + l % 2 * 8 + lane % 8];
        out[lane] = ToBf16(ToFloat(Fp8{code})).bits;
      }
    }
  }
}

FormatKernels Format(void (*tile)(const GemmTile&), void (*expand)(const ExpandLines&) = nullptr) {
  return {.max_rows = kMaxTileRows,
          .even_tiles = false,
          .prefetch_from_rows = 2,
          .tile = expand == nullptr ? tile : nullptr,
          .expand = expand,
          .expand_from_rows = 1,
          .expanded_tile = tile};
}

}  // namespace

const GemmKernels& EmulatedAmxKernels() {
  static const GemmKernels kernels = {
      .formats = {Format(EmulatedTile<AmxProduct::kBf16>),
                  Format(EmulatedTile<AmxProduct::kBf16>, ExpandFp8),
                  Format(EmulatedTile<AmxProduct::kInt8>),
                  kGemmPlain.Of(WeightFormat::kInt4)},
      .scale = kGemmPlain.scale,
      .store_linear = kGemmPlain.store_linear,
      .store_swiglu = kGemmPlain.store_swiglu,
      .quantize_row = kGemmPlain.quantize_row,
      .quantize_groups = kGemmPlain.quantize_groups,
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
