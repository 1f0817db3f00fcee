#include "engine/weight_by_format.h"

namespace skim {

void AppendRows(WeightFormat format, int32_t rows, std::vector<FormatRows>* runs) {
  if (rows == 0) return;
  if (!runs->empty() && runs->back().format == format) {
    runs->back().row_count += rows;
    return;
  }
  const int32_t begin = runs->empty() ? 0 : runs->back().row_begin + runs->back().row_count;
  runs->push_back({format, begin, rows});
}

void LinearByFormat(Ops& ops, std::span<const FormatRows> runs, Matrix<const Bf16> x,
                    const WeightByFormat& weight, const float* bias, bool accumulate,
                    Matrix<float> y) {
  for (const FormatRows& run : runs) {
    ops.Linear(x.Rows(run.row_begin, run.row_count), weight.In(run.format), bias, accumulate,
               y.Rows(run.row_begin, run.row_count));
  }
}

void LinearSwiGluByFormat(Ops& ops, std::span<const FormatRows> runs, Matrix<const Bf16> x,
                          const WeightByFormat& weight, const float* bias, Matrix<Bf16> y) {
  for (const FormatRows& run : runs) {
    ops.LinearSwiGlu(x.Rows(run.row_begin, run.row_count), weight.In(run.format), bias,
                     y.Rows(run.row_begin, run.row_count));
  }
}

}  // namespace skim
