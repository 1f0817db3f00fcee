#!/usr/bin/env bash
# Packs what gpu_check.sh needs into a folder that can be carried to a machine with a GPU.
# usage: bundle.sh BUILD FOLDER
set -euo pipefail
build=$1 folder=$2
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly most_mib=55
rm -rf "$folder"
mkdir -p "$folder"/{bin,lib,golden}
cp "$source/tests/gpu/gpu_check.sh" "$folder"
for binary in tests/kernels_op_suite_test bin/skim-gpu-check; do
  strip -o "$folder/bin/${binary##*/}" "$build/$binary"
  # All but the C library, the driver's and CUDA's, which the machine has to have.
  ldd "$build/$binary" | awk '/=> \// {print $3}' |
    grep -Ev '/(libc|libm|libdl|librt|libpthread|libcudart|libcublasLt)\.so' |
    xargs -r cp -Lt "$folder/lib"
done
for model in "$source"/tests/golden/tiny-*/; do cp -r "${model%/}" "$folder/golden"; done
mib=$(du -sm "$folder" | cut -f 1)
if ((mib > most_mib)); then
  echo "bundle.sh: $folder has $mib MiB, $most_mib is the most" >&2
  exit 1
fi
