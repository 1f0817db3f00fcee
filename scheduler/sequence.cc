#include "scheduler/sequence.h"

namespace skim {

bool Sequence::keeps_exit_rows(const KvGeometry& geometry) const {
  const DraftRow& row = speculation->row();
  return speculation->proposes_passes() && !lazy && row.format == request.weight_format &&
         !row.by_head() && row.leave < geometry.layers && geometry.hidden_rows_per_page > 0;
}

KvExtent Sequence::VerifyExtent(const KvCache& cache, int32_t drafts) const {
  if (lazy) return lazy->AfterDecode(computed, 1 + drafts);
  KvExtent extent = cache.FullExtent(computed + 1 + drafts);
  if (keeps_exit_rows(cache.geometry())) {
    // Of the known token and of all drafts but the last.
    const int32_t rows = cache.geometry().hidden_rows_per_page;
    extent.first_hidden_page = computed / rows;
    extent.hidden_pages = (computed + drafts - 1) / rows + 1;
  }
  return extent;
}

}  // namespace skim
