#!/usr/bin/env bash
# Asks the first GPU of this machine whether Skim's CUDA backend computes right on it, and how fast.
# One JSON object per line on stdout; what the parts said is in the folder named at the end. Needs
# NVIDIA's driver and libcudart; libcublasLt and compute-sanitizer are used where they are. It
# takes less than 8 minutes, and ends with 0 if all passed.
# usage: gpu_check.sh [--tiny]     --tiny: a few sizes, for a simulated device
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} SKIM_GOLDEN=$here/golden
op_suite=$here/bin/kernels_op_suite_test check=$here/bin/skim-gpu-check
logs=$(mktemp -d) || exit 1
ops='*cuda*' engine='*cuda*:*Cuda*' bench=()
if [[ ${1:-} == --tiny ]]; then
  ops='*ScatterUndoesGather/cuda' engine='*BackendParity*tiny_llama2' bench=(tiny)
elif (($#)); then
  sed -n '2,/^set/s/^# //p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
failed=0

# A part with a time limit: passed is that it ended with 0, and that tests ran.
step() { # name, seconds, command...
  local name=$1 log=$logs/$1.log code=0
  timeout "$2" "${@:3}" >"$log" 2>&1 || code=$?
  local passed skipped failures
  passed=$(grep -c '^\[       OK' "$log")
  skipped=$(grep -c '^\[  SKIPPED \].*ms)$' "$log")
  failures=$(grep -c '^\[  FAILED  \].*ms)$' "$log")
  local well=true
  if ((code || !passed)); then well=false failed=1; fi
  printf '{"suite": "gpu", "name": "%s", "passed": %s, "params": ' "$name" "$well"
  printf '{"exit": %d, "tests_passed": %d, "tests_failed": %d, "tests_skipped": %d}}\n' \
    "$code" "$passed" "$failures" "$skipped"
}

"$check" device || exit 1
if command -v nvidia-smi >/dev/null; then
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
  printf '{"suite": "gpu", "name": "driver", "params": {"version": "%s"}}\n' "$driver"
fi
step op_suite 90 "$op_suite" --gtest_filter="$ops"
step engine_parity 90 "$check" tests --gtest_filter="$engine"
timeout 200 "$check" bench "$logs/model" "${bench[@]}" 2>"$logs/bench.log" || failed=1
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    step "sanitizer_$tool" 45 compute-sanitizer --tool "$tool" --error-exitcode 9 "$op_suite" \
      --gtest_filter='*Linear*/cuda:*Attention*/cuda:*Sample*/cuda'
  done
fi
printf '{"suite": "gpu", "name": "logs", "params": {"folder": "%s"}}\n' "$logs"
exit "$failed"
