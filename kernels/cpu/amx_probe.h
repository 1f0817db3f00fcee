// Executes AMX tile instructions once. Faults where the processor or its host refuses them.
#pragma once

namespace skim {

void AmxProbe();

}  // namespace skim
