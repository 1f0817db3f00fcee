#include "scheduler/sequence.h"

namespace skim {

bool Sequence::keeps_exit_rows(const KvGeometry& geometry) const {
  const DraftRow& row = speculation->row();
  return speculation->proposes_passes() && !lazy && row.format == request.weight_format &&
         !row.by_head() && !row.by_draft_model() && row.leave < geometry.layers &&
         row.skipped.empty() && geometry.hidden_rows_per_page > 0;
}

KvExtent Sequence::VerifyExtent(const KvCache& cache, int32_t drafts) const {
  KvExtent extent =
      lazy ? lazy->AfterDecode(computed, 1 + drafts) : cache.FullExtent(computed + 1 + drafts);
  // The last draft is not run.
  if (drafts > 0 && speculation->proposes_draft_model()) extent.draft_slots = total() + drafts - 1;
  if (drafts > 0 && keeps_exit_rows(cache.geometry())) {
    // Of the known token and of all drafts but the last.
    const int32_t rows = cache.geometry().hidden_rows_per_page;
    extent.first_hidden_page = computed / rows;
    extent.hidden_pages = (computed + drafts - 1) / rows + 1;
  }
  return extent;
}

}  // namespace skim
