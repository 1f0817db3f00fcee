// What a failed call means to the person at the keyboard.
#pragma once

#include <grpcpp/grpcpp.h>

#include <string>
#include <string_view>

namespace skim {

// What `skim` exits with. Documented in its --help; scripts rely on the numbers.
enum ExitCode : int {
  kExitOk = 0,
  kExitFailed = 1,        // INTERNAL and all else
  kExitBadRequest = 2,    // wrong flags, or the server refuses a field
  kExitUnreachable = 3,   // nobody there, or loading, or draining
  kExitBusy = 4,          // the queue is full; try later
  kExitTimeout = 5,       // --timeout passed
  kExitNotAllowed = 6,    // token or certificate missing or wrong
  kExitInterrupted = 130  // Ctrl-C, as shells report it
};

ExitCode ExitCodeOf(const grpc::Status& status);

// "INVALID_ARGUMENT", ...
std::string_view CodeName(grpc::StatusCode code);

// One line: the code, the message, each violated field with what is wrong, what to do.
// Control characters from the server are dropped: a terminal would act on them.
std::string Explain(const grpc::Status& status, std::string_view server);

}  // namespace skim
