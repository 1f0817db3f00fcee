#include "tests/ptxsim/programs.h"

int main(int argc, char** argv) {
  Programs programs = CorrectPrograms();
  programs.merge(ProductPrograms());
  programs.merge(TilePrograms());
  programs.merge(MatmulPrograms());
  programs.merge(GraphPrograms());
  programs.merge(Canaries());
  const auto found = programs.find(argc > 1 ? argv[1] : "");
  if (found == programs.end()) {
    for (const auto& [name, program] : programs) std::printf("%s\n", name.c_str());
    return 2;
  }
  return found->second();
}
